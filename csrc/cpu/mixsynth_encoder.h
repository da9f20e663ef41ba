#pragma once
#include "../capability.h"

namespace lifter {

// `windows` windows of `frames` poses, each of `poses` numbers, from as many or from keyframes.
struct MixSynthEncoder {
  int64_t windows, frames, poses, dim, hidden, depth;
  int64_t channel_keys, token_keys;  // the mixtures among which attention weighs; all channels, or frames: no mixtures
  int64_t keyframes;                 // of a window; 0: all frames are given
  bool bfloat16;                     // else float32, of x and out
  const void* x;                     // (windows, keyframes or frames, poses), contiguous in the last
  int64_t window_stride, row_stride;
  const float* weights;  // as kernels/mixsynth_encoder.py packs them
  int64_t threads;
};

}  // namespace lifter

// out is (windows, frames, poses), contiguous, with the dtype of x.
LIFTER_KERNEL(void mixsynth_encoder_forward(const MixSynthEncoder&, void* out))
