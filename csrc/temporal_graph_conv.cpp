// temporal_graph_conv and temporal_graph_conv_bwd on the CPU: strides and outputs around csrc/cpu/temporal_graph_conv.cpp.
#include "cpu/temporal_graph_conv.h"

#include <algorithm>

#include "cpu/selective_scan.h"
#include "tensor.h"

namespace lifter {
namespace {

// dgraph is a sum over clips and joints, by parts, each of which has a graph of its own: 32 graphs (8 MB for 243 frames), but
// not over 64 MB, nor less than 4, which long clips still have threads for.
constexpr int64_t kParts = 32, kFewParts = 4, kPartial = 1 << 24;

Tensor with_channels_together(const Tensor& t) { return t.stride(3) == 1 ? t : torch::stable::contiguous(t); }

Strides strides(const Tensor& t) { return {t.stride(0), t.stride(2), t.stride(1), 0}; }

// Owns the inputs for as long as the kernel reads them.
struct Inputs {
  Inputs(const Tensor& x_, const Tensor& graph_, const OptionalTensor& mask_, double scale)
      : x(with_channels_together(x_)), graph(as_contiguous(graph_)), mask(as_contiguous(mask_)) {
    conv.batch = x.size(0), conv.frames = x.size(1), conv.joints = x.size(2), conv.channels = x.size(3);
    conv.bfloat16 = is_bfloat16("temporal_graph_conv", x);
    conv.pairs = conv.bfloat16 && capability() == Capability::avx512_bf16;
    conv.x = x.data_ptr(), conv.x_strides = strides(x);
    const int64_t frame = conv.joints * conv.channels;
    conv.out_strides = {frame * conv.frames, conv.channels, frame, 0};
    conv.graph = data<float>(graph), conv.mask = data<int32_t>(mask);
    conv.scale = static_cast<float>(scale);
  }

  Tensor x, graph;
  OptionalTensor mask;
  TemporalGraphConv conv{};
};

std::tuple<Tensor, Tensor> forward(const Tensor& x, const Tensor& graph, const OptionalTensor& mask, double scale) {
  const Inputs in(x, graph, mask, scale);
  const int64_t B = x.size(0), T = x.size(1), J = x.size(2), C = x.size(3);
  const Tensor out = empty(x, {B, T, J, C}, x.scalar_type()), lse = empty(x, {B, T, J}, ScalarType::Float);
  LIFTER_CALL(temporal_graph_conv_forward, in.conv, out.data_ptr(), output<float>(lse));
  return {out, lse};
}

std::tuple<Tensor, Tensor> backward(const Tensor& dout_, const Tensor& x, const Tensor& graph, const Tensor& lse_,
                                    const OptionalTensor& mask, double scale) {
  const Inputs in(x, graph, mask, scale);
  const Tensor dout = with_channels_together(dout_), lse = as_contiguous(lse_);
  const int64_t B = x.size(0), T = x.size(1), J = x.size(2), C = x.size(3);
  // Chosen by shape alone, so that the sum never depends on the number of threads.
  const int64_t parts = std::min(B * J, std::clamp(kPartial / (T * T), kFewParts, kParts));
  const Tensor dx = empty(x, {B, T, J, C}, x.scalar_type());
  const Tensor partial = empty(x, {parts, T, T}, ScalarType::Float), dgraph = empty(x, {T, T}, ScalarType::Float);
  const TemporalGraphConvGradient g{dout.data_ptr(), strides(dout), data<float>(lse), dx.data_ptr(), parts,
                                    output<float>(partial)};
  LIFTER_CALL(temporal_graph_conv_backward, in.conv, g);
  LIFTER_CALL(sum_partials, data<float>(partial), parts, T * T, output<float>(dgraph));
  return {dx, dgraph};
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) {
  m.impl("temporal_graph_conv", TORCH_BOX(&lifter::forward));
  m.impl("temporal_graph_conv_bwd", TORCH_BOX(&lifter::backward));
}
