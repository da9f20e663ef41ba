#pragma once
#include "transformer_block.h"

namespace lifter {

// Blocks and head of MixSTE, D3DP and PoseRetNet.
struct AlternatingTransformer : Transformer {
  int64_t depth;
  int64_t positions;  // frames that have a position before the first temporal block; 0: none has
  // For temporal blocks with retention, see retention.h.
  bool retains;
  int64_t chunk;
  bool causal;
  const float* rotary;
  int64_t rotary_row;
  const float* const* states;  // of every temporal block (batch, joints, heads, keys, keys), or null
  float* const* finals;        // the same after the last frame, or null
};

}  // namespace lifter

// poses are (batch, frames, joints, 3), contiguous, with the dtype of x.
LIFTER_KERNEL(void alternating_transformer_forward(const AlternatingTransformer&, void* poses))
