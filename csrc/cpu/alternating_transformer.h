#pragma once
#include "../capability.h"
#include "axial_attention.h"

namespace lifter {

// Blocks and head of MixSTE, D3DP and PoseRetNet.
struct AlternatingTransformer {
  int64_t batch, frames, joints;
  int64_t dim, hidden, heads, depth;  // dim is even
  int64_t positions;  // frames that have a position before the first temporal block; 0: none has
  bool bfloat16;      // else float32, of x, weights and poses
  bool pairs;         // multiply bfloat16 as such
  const void* x;         // (batch, frames, joints, dim), contiguous
  const void* weights;   // of the linear layers, and
  const float* vectors;  // all other parameters, as kernels/alternating_transformer.py packs them
  float scale;           // of attention
  AxialAttention along_frames;  // its mask, where a temporal block attends
  // Where a temporal block retains, see retention.h.
  bool retains;
  int64_t chunk;
  bool causal;
  const float* turns;
  int64_t turns_row;
  const float* const* states;  // of every temporal block (batch, joints, heads, keys, keys), or null
  float* const* finals;        // the same after the last frame, or null
};

}  // namespace lifter

// poses are (batch, frames, joints, 3), contiguous, with the dtype of x.
LIFTER_KERNEL(void alternating_transformer_forward(const AlternatingTransformer&, void* poses))
