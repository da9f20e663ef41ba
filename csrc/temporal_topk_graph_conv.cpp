// temporal_topk_graph_conv and temporal_topk_graph_conv_bwd on the CPU: strides and outputs around
// csrc/cpu/temporal_topk_graph_conv.cpp.
#include "cpu/temporal_topk_graph_conv.h"

#include <algorithm>

#include "glue.h"

namespace lifter {
namespace {

// `like` is what out looks like; the values and the root are null where the backward needs neither.
TemporalTopkGraphConv convolution(Inputs& in, const Tensor& like, int64_t words, const std::vector<int64_t>& windows,
                                  const OptionalTensor& values_, const OptionalTensor& root_, const OptionalTensor& scale) {
  TemporalTopkGraphConv s{};
  s.batch = like.size(0), s.frames = like.size(1), s.joints = like.size(2), s.sizes = like.size(3), s.width = like.size(4);
  s.windows = windows.data(), s.words = words;
  s.precision = precision_of("temporal_topk_graph_conv", like);
  if (const Tensor* values = in.contiguous_channels(values_))
    s.values = values->data_ptr(), s.values_strides = token_strides(*values, 3);
  if (const Tensor* root = in.contiguous_channels(root_)) s.root = root->data_ptr(), s.root_strides = token_strides(*root, 3);
  s.scale = in.data<float>(scale);
  return s;
}

std::tuple<Tensor, Tensor> forward(const Tensor& x_, const Tensor& values, int64_t k, std::vector<int64_t> windows,
                                   bool cosine, bool all_ties, const OptionalTensor& root, const OptionalTensor& scale,
                                   const OptionalTensor& shift, const OptionalTensor& residual_, bool relu) {
  Inputs in;
  const int64_t longest = windows.empty() ? 0 : *std::max_element(windows.begin(), windows.end());
  TemporalTopkGraphConv s = convolution(in, values, (longest + kWordBits - 1) / kWordBits, windows, values, root, scale);
  const Tensor& x = in.contiguous_channels(x_);
  s.channels = x.size(3), s.k = k, s.cosine = cosine, s.all_ties = all_ties, s.relu = relu;
  s.x = x.data_ptr(), s.x_batch = x.stride(0), s.x_frame = x.stride(1), s.x_joint = x.stride(2);
  s.shift = in.data<float>(shift);
  if (const Tensor* residual = in.contiguous_channels(residual_))
    s.residual = residual->data_ptr(), s.residual_strides = token_strides(*residual, 3);
  const Tensor out = contiguous_like(values);
  const Tensor graph = empty(values, {s.batch, s.joints, s.sizes, s.frames, s.words}, ScalarType::Int);
  LIFTER_CALL(temporal_topk_graph_conv_forward, s, output<uint32_t>(graph), out.data_ptr());
  return {out, graph};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(const Tensor& dout_, const Tensor& graph, int64_t,
                                                            std::vector<int64_t> windows, const OptionalTensor& out,
                                                            const OptionalTensor& values, const OptionalTensor& root,
                                                            const OptionalTensor& scale) {
  Inputs in;
  const Tensor& dout = in.contiguous_channels(dout_);
  const TemporalTopkGraphConv s = convolution(in, dout, graph.size(4), windows, values, root, scale);
  const auto map = [&](bool wanted) { return wanted ? contiguous_like(dout) : absent(dout); };
  const auto partial = [&] {
    return values ? empty(dout, {s.batch, s.joints, s.frames, s.sizes}, ScalarType::Float) : absent(dout);
  };
  const Tensor dvalues = map(true), droot = map(scale.has_value()), dresidual = map(out.has_value());
  const Tensor dscale = partial(), dshift = partial();
  const Tensor* out_c = in.contiguous(out);
  const TemporalTopkGraphConvGradient g{dout.data_ptr(),
                                        token_strides(dout, 3),
                                        out_c ? out_c->data_ptr() : nullptr,
                                        in.data<uint32_t>(graph),
                                        dvalues.data_ptr(),
                                        output_or_null<void>(droot),
                                        output_or_null<void>(dresidual),
                                        output_or_null<float>(dscale),
                                        output_or_null<float>(dshift)};
  LIFTER_CALL(temporal_topk_graph_conv_backward, s, g);
  const auto sum = [&](const Tensor& partials) {
    return values ? sum_over(partials, s.batch * s.joints, {s.frames, s.sizes}) : partials;
  };
  return {dvalues, droot, dresidual, sum(dscale), sum(dshift)};
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) {
  m.impl("temporal_topk_graph_conv", TORCH_BOX(&lifter::forward));
  m.impl("temporal_topk_graph_conv_bwd", TORCH_BOX(&lifter::backward));
}
