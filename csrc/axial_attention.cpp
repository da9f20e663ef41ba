// axial_attention and axial_attention_bwd on the CPU: strides and outputs around csrc/cpu/axial_attention.cpp.
#include "cpu/axial_attention.h"

#include "attention_mask.h"
#include "glue.h"

namespace lifter {
namespace {

AxialAttention attention(Inputs& in, const Tensor& qkv_, const OptionalTensor& mask, int64_t axis, double scale,
                         double dropout, const OptionalTensor& seed) {
  const Tensor& qkv = in.contiguous_channels(qkv_);
  const bool along_frames = axis == 1;
  const int64_t frames = qkv.size(1), joints = qkv.size(2);
  AxialAttention a{};
  a.batch = qkv.size(0), a.heads = qkv.size(4), a.channels = qkv.size(5);
  a.rows = along_frames ? joints : frames, a.length = along_frames ? frames : joints;
  a.precision = precision_of("axial_attention", qkv);
  a.qkv = qkv.data_ptr(), a.qkv_strides = token_strides(qkv, 4, along_frames), a.part = qkv.stride(3);
  const int64_t token = a.channels * a.heads, frame = token * joints;
  a.out_strides = {frame * frames, along_frames ? token : frame, along_frames ? frame : token, a.channels};
  set_mask(in, mask, a);
  a.scale = static_cast<float>(scale);
  a.drops = dropout > 0, a.kept = static_cast<float>(1 / (1 - dropout));
  a.threshold = static_cast<uint32_t>(dropout * 4294967296.0);
  if (seed) a.seed = static_cast<uint32_t>(*data<int64_t>(*seed));
  return a;
}

std::tuple<Tensor, Tensor> forward(const Tensor& qkv, const OptionalTensor& mask, int64_t axis, double scale,
                                   double dropout, const OptionalTensor& seed) {
  Inputs in;
  const AxialAttention a = attention(in, qkv, mask, axis, scale, dropout, seed);
  const int64_t B = qkv.size(0), T = qkv.size(1), J = qkv.size(2), H = qkv.size(4), D = qkv.size(5);
  const Tensor out = empty(qkv, {B, T, J, H * D}, qkv.scalar_type());
  const Tensor lse = empty(qkv, {B, T, J, H}, ScalarType::Float);
  LIFTER_CALL(axial_attention_forward, a, out.data_ptr(), output<float>(lse));
  return {out, lse};
}

Tensor backward(const Tensor& dout, const Tensor& qkv, const Tensor& out, const Tensor& lse, const OptionalTensor& mask,
                int64_t axis, double scale, double dropout, const OptionalTensor& seed) {
  Inputs in;
  const AxialAttention a = attention(in, qkv, mask, axis, scale, dropout, seed);
  const Tensor dqkv = contiguous_like(qkv);
  const AxialAttentionGradient g{in.contiguous(out).data_ptr(),     in.contiguous(dout).data_ptr(), in.data<float>(lse),
                                 dqkv.data_ptr(), token_strides(dqkv, 4, axis == 1), dqkv.stride(3)};
  LIFTER_CALL(axial_attention_backward, a, g);
  return dqkv;
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) {
  m.impl("axial_attention", TORCH_BOX(&lifter::forward));
  m.impl("axial_attention_bwd", TORCH_BOX(&lifter::backward));
}
