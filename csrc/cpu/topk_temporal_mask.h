#pragma once
#include "../capability.h"

namespace lifter {

// Strides are in elements; the channels of x are contiguous.
struct TopkTemporalMask {
  int64_t batch, frames, joints, channels, k;
  bool bfloat16;  // else float32, of x
  bool pairs;     // multiply bfloat16 as such
  const void* x;
  int64_t x_batch, x_frame, x_joint;
};

}  // namespace lifter

// mask (batch, joints, frames, words of 32 frames), contiguous.
LIFTER_KERNEL(void topk_temporal_mask(const TopkTemporalMask&, uint32_t* mask))
