#pragma once
#include "../capability.h"
#include "layout.h"

namespace lifter {

// For every clip and joint: of maps, a row is a joint, and its tokens are its frames.
struct TemporalGraphConv {
  int64_t batch, frames, joints, channels;
  Precision precision;  // of x, out and their gradients
  const void* x;
  Strides x_strides, out_strides;  // out's also of dx, and without the channels of lse
  const float* graph;              // (frames, frames), contiguous
  const int32_t* mask;             // (batch, joints, frames, ceil(frames / 32)), contiguous, or null
  float scale;
};

struct TemporalGraphConvGradient {
  const void* dout;
  Strides dout_strides;
  const float* lse;
  void* dx;
  int64_t parts;  // at most a part per clip and joint
  float* dgraph;  // (parts, frames, frames): what the clips and joints of a part give it
};

}  // namespace lifter

// out is (batch, frames, joints, channels), contiguous, and lse (batch, frames, joints).
LIFTER_KERNEL(void temporal_graph_conv_forward(const TemporalGraphConv&, void* out, float* lse))
LIFTER_KERNEL(void temporal_graph_conv_backward(const TemporalGraphConv&, const TemporalGraphConvGradient&))
