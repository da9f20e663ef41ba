// temporal_topk_graph_conv and temporal_topk_graph_conv_bwd on the CPU: strides and outputs around
// csrc/cpu/temporal_topk_graph_conv.cpp.
#include "cpu/temporal_topk_graph_conv.h"

#include <utility>

#include "cpu/selective_scan.h"  // sum_partials
#include "tensor.h"

namespace lifter {
namespace {

OptionalTensor with_channels(const OptionalTensor& map) {
  return map && map->stride(4) != 1 ? torch::stable::contiguous(*map) : map;
}

Strides strides(const Tensor& map) { return {map.stride(0), map.stride(2), map.stride(1), map.stride(3)}; }

const void* pointer(const OptionalTensor& t) { return t ? t->data_ptr() : nullptr; }

// Owns what the kernels read, for as long as they do. `like` is what out looks like.
struct Inputs {
  Inputs(const Tensor& like, int64_t words, std::vector<int64_t> windows_, const OptionalTensor& values_,
         const OptionalTensor& root_, const OptionalTensor& scale_)
      : windows(std::move(windows_)), values(with_channels(values_)), root(with_channels(root_)), scale(as_contiguous(scale_)) {
    conv.batch = like.size(0), conv.frames = like.size(1), conv.joints = like.size(2), conv.width = like.size(4);
    conv.sizes = like.size(3), conv.windows = windows.data(), conv.words = words;
    conv.bfloat16 = is_bfloat16("temporal_topk_graph_conv", like);
    conv.values = pointer(values), conv.root = pointer(root), conv.scale = data<float>(scale);
    if (values) conv.values_strides = strides(*values);
    if (root) conv.root_strides = strides(*root);
  }

  std::vector<int64_t> windows;
  OptionalTensor values, root, scale;
  TemporalTopkGraphConv conv{};
};

std::tuple<Tensor, Tensor> forward(const Tensor& x_, const Tensor& values, int64_t k, std::vector<int64_t> windows,
                                   bool cosine, bool all_ties, const OptionalTensor& root, const OptionalTensor& scale,
                                   const OptionalTensor& shift_, const OptionalTensor& residual_, bool relu) {
  int64_t longest = 0;
  for (const int64_t window : windows) longest = window > longest ? window : longest;
  Inputs in(values, (longest + 31) / 32, std::move(windows), values, root, scale);
  const Tensor x = x_.stride(3) == 1 ? x_ : torch::stable::contiguous(x_);
  const OptionalTensor shift = as_contiguous(shift_), residual = with_channels(residual_);
  TemporalTopkGraphConv& s = in.conv;
  s.channels = x.size(3), s.k = k, s.cosine = cosine, s.all_ties = all_ties, s.relu = relu;
  s.pairs = s.bfloat16 && capability() == Capability::avx512_bf16;
  s.x = x.data_ptr(), s.x_batch = x.stride(0), s.x_frame = x.stride(1), s.x_joint = x.stride(2);
  s.shift = data<float>(shift), s.residual = pointer(residual);
  if (residual) s.residual_strides = strides(*residual);
  const Tensor out = empty(values, {s.batch, s.frames, s.joints, s.sizes, s.width}, values.scalar_type());
  const Tensor graph = empty(values, {s.batch, s.joints, s.sizes, s.frames, s.words}, ScalarType::Int);
  LIFTER_CALL(temporal_topk_graph_conv_forward, s, output<uint32_t>(graph), out.data_ptr());
  return {out, graph};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(const Tensor& dout_, const Tensor& graph_, int64_t,
                                                            std::vector<int64_t> windows, const OptionalTensor& out_,
                                                            const OptionalTensor& values, const OptionalTensor& root,
                                                            const OptionalTensor& scale) {
  const Tensor dout = *with_channels(dout_), graph = as_contiguous(graph_);
  const OptionalTensor out = as_contiguous(out_);
  const Inputs in(dout, graph.size(4), std::move(windows), values, root, scale);
  const TemporalTopkGraphConv& s = in.conv;
  const auto map = [&](bool there) {
    return there ? empty(dout, {s.batch, s.frames, s.joints, s.sizes, s.width}, dout.scalar_type()) : absent(dout);
  };
  const auto partial = [&] {
    return values ? empty(dout, {s.batch, s.joints, s.frames, s.sizes}, ScalarType::Float) : absent(dout);
  };
  const Tensor dvalues = map(true), droot = map(scale.has_value()), dresidual = map(out.has_value());
  const Tensor dscale = partial(), dshift = partial();
  const TemporalTopkGraphConvGradient g{dout.data_ptr(),
                                        strides(dout),
                                        pointer(out),
                                        data<uint32_t>(graph),
                                        dvalues.data_ptr(),
                                        output_or_null<void>(droot),
                                        output_or_null<void>(dresidual),
                                        output_or_null<float>(dscale),
                                        output_or_null<float>(dshift)};
  LIFTER_CALL(temporal_topk_graph_conv_backward, s, g);
  const auto sum = [&](const Tensor& partials) {
    if (!values) return partials;
    const Tensor sums = empty(dout, {s.frames, s.sizes}, ScalarType::Float);
    LIFTER_CALL(sum_partials, data<float>(partials), s.batch * s.joints, sums.numel(), output<float>(sums));
    return sums;
  };
  return {dvalues, droot, dresidual, sum(dscale), sum(dshift)};
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) {
  m.impl("temporal_topk_graph_conv", TORCH_BOX(&lifter::forward));
  m.impl("temporal_topk_graph_conv_bwd", TORCH_BOX(&lifter::backward));
}
