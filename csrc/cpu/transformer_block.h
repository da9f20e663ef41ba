#pragma once
#include "../capability.h"
#include "axial_attention.h"

namespace lifter {

// Clips of rows (frame, joint), and blocks of one size that they go through.
struct Transformer {
  int64_t batch, frames, joints;
  int64_t dim, hidden, heads;  // dim is even
  Precision precision;  // of x, weights and result
  const void* x;         // (batch, frames, joints, dim), contiguous
  const void* weights;   // of the linear layers, and
  const float* vectors;  // all other parameters, as kernels/_panels.py packs them
  float epsilon;       // of the norms of blocks
  float scale;         // of attention
  AxialAttention along_frames;  // the mask
};

enum class Mixer { none, joints, frames };

}  // namespace lifter

// out is as x.
LIFTER_KERNEL(void transformer_block_forward(const Transformer&, Mixer, void* out))
