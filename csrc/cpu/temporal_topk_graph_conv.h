#pragma once
#include "../capability.h"
#include "layout.h"

namespace lifter {

// Strides are in elements; the channels of x, values, root and residual are contiguous. A work item is a joint of a clip in
// windows of one of the sizes: rows of its strides are joints, tokens frames, and heads sizes.
struct TemporalTopkGraphConv {
  int64_t batch, frames, joints, channels, k;
  int64_t width;  // channels of the values
  int64_t sizes;
  const int64_t* windows;  // frames of a window, at most `frames`; one of every size
  int64_t words;           // of a frame's row of the graph
  bool cosine, all_ties, relu;
  Precision precision;  // of x, values, root and residual
  const void* x;
  int64_t x_batch, x_frame, x_joint;
  const void *values, *root, *residual;  // the last two may be null
  Strides values_strides, root_strides, residual_strides;
  const float *scale, *shift;  // (frames, sizes), or null
};

// Contiguous like dout but for the partial sums, (batch, joints, frames, sizes). All but dvalues may be null.
struct TemporalTopkGraphConvGradient {
  const void* dout;
  Strides dout_strides;
  const void* out;  // null without relu
  const uint32_t* graph;
  void *dvalues, *droot, *dresidual;
  float *dscale, *dshift;
};

}  // namespace lifter

// graph (batch, joints, sizes, frames, words), whose bits are those of the longest window made of such windows; out
// (batch, frames, joints, sizes, width), contiguous.
LIFTER_KERNEL(void temporal_topk_graph_conv_forward(const TemporalTopkGraphConv&, uint32_t* graph, void* out))
LIFTER_KERNEL(void temporal_topk_graph_conv_backward(const TemporalTopkGraphConv&, const TemporalTopkGraphConvGradient&))
