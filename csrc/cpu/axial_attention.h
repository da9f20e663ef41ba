#pragma once
#include "../capability.h"
#include "layout.h"

namespace lifter {

// Attention of the `length` tokens of a row, for every (batch, row, head).
struct AxialAttention {
  int64_t batch, rows, length, heads, channels;
  Precision precision;  // of qkv, out and their gradients
  const void* qkv;
  Strides qkv_strides, out_strides;
  int64_t part;  // elements from q to k, and from k to v
  const bool* allowed;    // (batch, rows, length, length), or null
  const float* additive;  // the same, or null
  const uint32_t* bitmask;  // (batch, rows, length, length / 32 rounded up): the bits of `allowed`, or null
  int64_t mask_strides[3];  // the last of any is 1
  float scale;
  bool drops;
  float kept;                // the factor of a weight that is kept,
  uint32_t threshold, seed;  // which it is where its hash is at least the threshold
};

struct AxialAttentionGradient {
  const void *out, *dout;  // (batch, frames, joints, heads, channels), contiguous
  const float* lse;
  void* dqkv;              // contiguous, as qkv
  Strides dqkv_strides;
  int64_t part;
};

}  // namespace lifter

// lse is (batch, frames, joints, heads), contiguous, as out without the channels.
LIFTER_KERNEL(void axial_attention_forward(const AxialAttention&, void* out, float* lse))
LIFTER_KERNEL(void axial_attention_backward(const AxialAttention&, const AxialAttentionGradient&))
