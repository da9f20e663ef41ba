#pragma once
#include "../capability.h"

namespace lifter {

// A map (batch, dim, length): rows of contiguous steps, one per channel, or rows of contiguous channels, one per step.
struct Rows {
  const void* data;
  int64_t batch, row;  // elements from one to the next
};

struct CausalConv1d {
  int64_t batch, dim, length, width;
  bool bfloat16;  // else float32, of all maps and states
  bool silu, channels_last;
  Rows x;
  const float *weight, *bias;  // (width, dim), (dim) or null
  const uint32_t* tap_mask;  // (batch, width, tap_mask_stride) or null: all bits where step l sees step l - k, k < width
  int64_t tap_mask_stride;  // at least length + kTapMaskPadding; zero behind the length
  const void* initial_states;  // (batch, dim, width - 1), contiguous, or null
};

constexpr int64_t kTapMaskPadding = 24;

// Gradients; outputs are contiguous, dx in the layout of x.
struct CausalConv1dGradient {
  Rows dout;
  void* dx;
  void* dinitial_states;  // or null
  float* partial;  // workspace (parts, width + 1, dim), to be added in order: dweight, then dbias
  int64_t parts;  // batch, or with channels_last batch * (segments of a sequence)
  float *dweight, *dbias;  // (dim, width), (dim); the second may be null
};

struct CausalConv1dUpdate {
  int64_t batch, dim, length, width, states, state_rows;
  bool bfloat16, silu;
  const void* x;
  int64_t x_batch, x_channel, x_step;
  void* state;
  int64_t state_batch, state_channel, state_step;
  const float *weight, *bias;  // (width, dim), (dim) or null
  const int32_t *cache_seqlens, *conv_state_indices;  // (batch) or null
  void* out;  // (batch, dim, length), contiguous
};

constexpr int64_t kSegment = 256;  // rows of channels that share a partial sum

}  // namespace lifter

LIFTER_KERNEL(void causal_conv1d_forward(const CausalConv1d&, void* out))
LIFTER_KERNEL(void causal_conv1d_backward(const CausalConv1d&, const CausalConv1dGradient&))
LIFTER_KERNEL(void causal_conv1d_update(const CausalConv1dUpdate&))
