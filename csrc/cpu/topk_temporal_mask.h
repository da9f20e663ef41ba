#pragma once
#include "../capability.h"
#include "layout.h"

namespace lifter {

// Strides are in elements; the channels of x are contiguous.
struct TopkTemporalMask {
  int64_t batch, frames, joints, channels, k;
  Precision precision;  // of x
  const void* x;
  int64_t x_batch, x_frame, x_joint;
};

}  // namespace lifter

// mask (batch, joints, frames, words of 32 frames), contiguous.
LIFTER_KERNEL(void topk_temporal_mask(const TopkTemporalMask&, uint32_t* mask))
