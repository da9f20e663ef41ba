// temporal_graph_conv and temporal_graph_conv_bwd on the CPU: strides and outputs around csrc/cpu/temporal_graph_conv.cpp.
#include "cpu/temporal_graph_conv.h"

#include <algorithm>

#include "glue.h"

namespace lifter {
namespace {

// dgraph is a sum over clips and joints, by parts, each of which has a graph of its own: 32 graphs (8 MB for 243 frames), but
// not over 64 MB, nor less than 4, which long clips still have threads for.
constexpr int64_t kParts = 32, kFewParts = 4, kPartial = 1 << 24;

TemporalGraphConv convolution(Inputs& in, const Tensor& x_, const Tensor& graph, const OptionalTensor& mask, double scale) {
  const Tensor& x = in.contiguous_channels(x_);
  TemporalGraphConv s{};
  s.batch = x.size(0), s.frames = x.size(1), s.joints = x.size(2), s.channels = x.size(3);
  s.precision = precision_of("temporal_graph_conv", x);
  s.x = x.data_ptr(), s.x_strides = token_strides(x);
  const int64_t frame = s.joints * s.channels;
  s.out_strides = {frame * s.frames, s.channels, frame, 0};
  s.graph = in.data<float>(graph), s.mask = in.data<int32_t>(mask);
  s.scale = static_cast<float>(scale);
  return s;
}

std::tuple<Tensor, Tensor> forward(const Tensor& x, const Tensor& graph, const OptionalTensor& mask, double scale) {
  Inputs in;
  const TemporalGraphConv s = convolution(in, x, graph, mask, scale);
  const Tensor out = contiguous_like(x), lse = empty(x, {s.batch, s.frames, s.joints}, ScalarType::Float);
  LIFTER_CALL(temporal_graph_conv_forward, s, out.data_ptr(), output<float>(lse));
  return {out, lse};
}

std::tuple<Tensor, Tensor> backward(const Tensor& dout_, const Tensor& x, const Tensor& graph, const Tensor& lse,
                                    const OptionalTensor& mask, double scale) {
  Inputs in;
  const TemporalGraphConv s = convolution(in, x, graph, mask, scale);
  const Tensor& dout = in.contiguous_channels(dout_);
  // Chosen by shape alone, so that the sum never depends on the number of threads.
  const int64_t size = s.frames * s.frames;
  const int64_t parts = std::min(s.batch * s.joints, std::clamp(kPartial / size, kFewParts, kParts));
  const Tensor dx = contiguous_like(x), partial = empty(x, {parts, size}, ScalarType::Float);
  const TemporalGraphConvGradient g{dout.data_ptr(), token_strides(dout), in.data<float>(lse), dx.data_ptr(), parts,
                                    output<float>(partial)};
  LIFTER_CALL(temporal_graph_conv_backward, s, g);
  return {dx, sum_over(partial, parts, {s.frames, s.frames})};
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) {
  m.impl("temporal_graph_conv", TORCH_BOX(&lifter::forward));
  m.impl("temporal_graph_conv_bwd", TORCH_BOX(&lifter::backward));
}
