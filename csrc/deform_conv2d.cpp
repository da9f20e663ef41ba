// deform_conv2d, deform_sample and their gradients on the CPU: layouts, workspaces and outputs around
// csrc/cpu/deform_conv2d.cpp.
#include "cpu/deform_conv2d.h"

#include <algorithm>

#include "glue.h"

namespace lifter {
namespace {

using Ints = std::vector<int64_t>;

void copy_strides(const Tensor& t, int64_t count, int64_t* strides) {
  std::copy_n(t.strides().data(), count, strides);
}

int64_t taps_of(const DeformConv2d& s) { return s.kernel[0] * s.kernel[1]; }

DeformConv2d sampling(Inputs& in, const Tensor& input_, const Tensor& offset, const OptionalTensor& mask, const Ints& kernel,
                      const Ints& stride, const Ints& padding, const Ints& dilation) {
  const Tensor& input = in.contiguous_channels(input_);
  DeformConv2d s{};
  s.batch = input.size(0), s.height = input.size(1), s.width = input.size(2), s.channels = input.size(3);
  s.out_height = offset.size(2), s.out_width = offset.size(3);
  std::copy_n(kernel.data(), 2, s.kernel), std::copy_n(stride.data(), 2, s.stride);
  std::copy_n(padding.data(), 2, s.padding), std::copy_n(dilation.data(), 2, s.dilation);
  s.groups = offset.size(1) / (2 * taps_of(s));
  s.bfloat16 = is_bfloat16("deform_conv2d", input);
  s.input = input.data_ptr(), s.offset = data<float>(offset);
  copy_strides(input, 3, s.input_strides), copy_strides(offset, 4, s.offset_strides);
  if (mask) s.mask = data<float>(*mask), copy_strides(*mask, 4, s.mask_strides);
  if (s.bfloat16) s.widened = output<float>(in.keep(empty(input, {input.numel()}, ScalarType::Float)));
  return s;
}

DeformConv2d convolution(Inputs& in, const Tensor& input, const Tensor& offset, const OptionalTensor& mask,
                         const Tensor& weight, const OptionalTensor& bias, const Ints& stride, const Ints& padding,
                         const Ints& dilation) {
  DeformConv2d s = sampling(in, input, offset, mask, {weight.size(0), weight.size(1)}, stride, padding, dilation);
  s.weight = in.data<float>(weight), s.bias = in.data<float>(bias);
  return s;
}

Tensor forward(const Tensor& input, const Tensor& offset, const OptionalTensor& mask, const Tensor& weight,
               const OptionalTensor& bias, Ints stride, Ints padding, Ints dilation) {
  Inputs in;
  const DeformConv2d s = convolution(in, input, offset, mask, weight, bias, stride, padding, dilation);
  const Tensor out = empty(input, {s.batch, s.out_height, s.out_width, s.channels}, input.scalar_type());
  LIFTER_CALL(deform_conv2d_forward, s, out.data_ptr());
  return out;
}

Tensor sample(const Tensor& input, const Tensor& offset, const OptionalTensor& mask, Ints kernel, Ints stride,
              Ints padding, Ints dilation) {
  Inputs in;
  const DeformConv2d s = sampling(in, input, offset, mask, kernel, stride, padding, dilation);
  const Tensor columns = empty(input, {s.batch, s.out_height, s.out_width, taps_of(s), s.channels}, input.scalar_type());
  LIFTER_CALL(deform_conv2d_forward, s, columns.data_ptr());
  return columns;
}

// dinput, doffset and dmask; `g` may already hold what the gradient of a weight needs.
std::tuple<Tensor, Tensor, Tensor> gradient(Inputs& in, const DeformConv2d& s, const Tensor& dout, const Tensor& input,
                                            const Tensor& offset, const OptionalTensor& mask, DeformConv2dGradient g) {
  const Tensor dinput = contiguous_like(input);
  const Tensor sum = s.bfloat16 ? empty(dinput, {dinput.numel()}, ScalarType::Float) : dinput;
  const Tensor doffset = torch::stable::empty_like(offset);
  const Tensor dmask = mask ? torch::stable::empty_like(*mask) : absent(input);
  g.dout = in.contiguous(dout).data_ptr(), g.dinput = dinput.data_ptr(), g.dinput_sum = output<float>(sum);
  g.doffset = output<float>(doffset), copy_strides(doffset, 4, g.doffset_strides);
  if (mask) g.dmask = output<float>(dmask), copy_strides(dmask, 4, g.dmask_strides);
  LIFTER_CALL(deform_conv2d_backward, s, g);
  return {dinput, doffset, dmask};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(const Tensor& dout, const Tensor& input,
                                                            const Tensor& offset, const OptionalTensor& mask,
                                                            const Tensor& weight, Ints stride, Ints padding,
                                                            Ints dilation) {
  Inputs in;
  const DeformConv2d s = convolution(in, input, offset, mask, weight, std::nullopt, stride, padding, dilation);
  const Tensor dweight = contiguous_like(weight), dbias = empty(input, {s.channels}, ScalarType::Float);
  const Tensor partials = empty(input, {deform_conv2d_shares(s) * (taps_of(s) + 1) * s.channels}, ScalarType::Float);
  DeformConv2dGradient g{};
  g.dweight = output<float>(dweight), g.dbias = output<float>(dbias), g.partials = output<float>(partials);
  const auto [dinput, doffset, dmask] = gradient(in, s, dout, input, offset, mask, g);
  return {dinput, doffset, dmask, dweight, dbias};
}

std::tuple<Tensor, Tensor, Tensor> sample_backward(const Tensor& dcolumns, const Tensor& input, const Tensor& offset,
                                                   const OptionalTensor& mask, Ints kernel, Ints stride, Ints padding,
                                                   Ints dilation) {
  Inputs in;
  const DeformConv2d s = sampling(in, input, offset, mask, kernel, stride, padding, dilation);
  return gradient(in, s, dcolumns, input, offset, mask, {});
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) {
  m.impl("deform_conv2d", TORCH_BOX(&lifter::forward));
  m.impl("deform_conv2d_bwd", TORCH_BOX(&lifter::backward));
  m.impl("deform_sample", TORCH_BOX(&lifter::sample));
  m.impl("deform_sample_bwd", TORCH_BOX(&lifter::sample_backward));
}
