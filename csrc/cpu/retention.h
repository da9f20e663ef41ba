#pragma once
#include "../capability.h"
#include "layout.h"

namespace lifter {

// Retention along the frames, for every (batch, joint, head).
struct Retention {
  int64_t batch, frames, joints, heads, keys, values;  // keys and values: channels of a head
  int64_t chunk;
  bool causal;
  Precision precision;  // of q, k, v, out and their gradients
  Strides q_strides, k_strides, v_strides, out_strides;
  const void *q, *k, *v;
  const float* decay;  // (joints, heads)
  const float* state;  // (batch, joints, heads, keys, values), or null for zeros
  // xPos, or null: (4, chunk + 1, row), what turns q and then k at frame n, x * cosines + (x with its pairs swapped) *
  // sines; a row is `keys` rounded up to 16.
  const float* rotary;
  int64_t rotary_row;
  float scale;
};

struct RetentionGradient {
  const void* dout;  // (batch, frames, joints, heads, values), contiguous
  const float* dfinal;  // as state, or null
  void *dq, *dk, *dv;   // contiguous
  Strides dq_strides, dv_strides;
  float* ddecay;        // (batch, joints, heads)
  float* dstate;        // as state, or null
};

}  // namespace lifter

// out is (batch, frames, joints, heads, values), contiguous; final is as state, or null.
LIFTER_KERNEL(void retention_forward(const Retention&, void* out, float* final))
LIFTER_KERNEL(void retention_backward(const Retention&, const RetentionGradient&))
