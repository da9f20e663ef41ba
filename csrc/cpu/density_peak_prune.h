#pragma once
#include "../capability.h"
#include "layout.h"

namespace lifter {

// Strides are in elements; the channels of x and the last dimension of the mask are contiguous, as are noise and valid.
struct DensityPeakPrune {
  int64_t batch, frames, channels, kept, nearest;
  Precision precision;  // of x
  const void* x;
  int64_t x_batch, x_frame;
  const float* mask;  // (batch, frames, frames), or null
  int64_t mask_batch, mask_frame;
  const float* noise;  // (batch, frames), or null
  const bool* valid;   // the same
};

}  // namespace lifter

// indices (batch, kept) and scores (batch, frames), contiguous.
LIFTER_KERNEL(void density_peak_prune(const DensityPeakPrune&, int64_t* indices, float* scores))
