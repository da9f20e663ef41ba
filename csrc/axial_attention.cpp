// axial_attention and axial_attention_bwd on the CPU: strides and outputs around csrc/cpu/axial_attention.cpp.
#include "cpu/axial_attention.h"

#include "attention_mask.h"
#include "tensor.h"

namespace lifter {
namespace {

// Owns the inputs for as long as the kernel reads them.
struct Inputs {
  Inputs(const Tensor& qkv_, const OptionalTensor& mask_, int64_t axis, double scale, double dropout,
         const OptionalTensor& seed)
      : qkv(qkv_.stride(5) == 1 ? qkv_ : torch::stable::contiguous(qkv_)), along_frames(axis == 1) {
    const int64_t frames = qkv.size(1), joints = qkv.size(2);
    attention.batch = qkv.size(0), attention.heads = qkv.size(4), attention.channels = qkv.size(5);
    attention.rows = along_frames ? joints : frames, attention.length = along_frames ? frames : joints;
    attention.bfloat16 = is_bfloat16("axial_attention", qkv);
    attention.pairs = attention.bfloat16 && capability() == Capability::avx512_bf16;
    attention.qkv = qkv.data_ptr(), attention.qkv_strides = strides(qkv), attention.part = qkv.stride(3);
    const int64_t head = attention.channels, token = head * attention.heads;
    const int64_t frame = token * joints;
    attention.out_strides = {frame * frames, along_frames ? token : frame, along_frames ? frame : token, head};
    if (mask_) {
      mask = with_contiguous_keys(*mask_);
      set_mask(*mask, attention);
    }
    attention.scale = static_cast<float>(scale);
    attention.drops = dropout > 0, attention.kept = static_cast<float>(1 / (1 - dropout));
    attention.threshold = static_cast<uint32_t>(dropout * 4294967296.0);
    if (seed) attention.seed = static_cast<uint32_t>(*data<int64_t>(*seed));
  }

  Strides strides(const Tensor& t) const {
    const int64_t frame = t.stride(1), joint = t.stride(2);
    return {t.stride(0), along_frames ? joint : frame, along_frames ? frame : joint, t.stride(4)};
  }

  Tensor qkv;
  OptionalTensor mask;
  bool along_frames;
  AxialAttention attention{};
};

std::tuple<Tensor, Tensor> forward(const Tensor& qkv, const OptionalTensor& mask, int64_t axis, double scale,
                                   double dropout, const OptionalTensor& seed) {
  const Inputs in(qkv, mask, axis, scale, dropout, seed);
  const int64_t B = qkv.size(0), T = qkv.size(1), J = qkv.size(2), H = qkv.size(4), D = qkv.size(5);
  const Tensor out = empty(qkv, {B, T, J, H * D}, qkv.scalar_type());
  const Tensor lse = empty(qkv, {B, T, J, H}, ScalarType::Float);
  LIFTER_CALL(axial_attention_forward, in.attention, out.data_ptr(), output<float>(lse));
  return {out, lse};
}

Tensor backward(const Tensor& dout, const Tensor& qkv, const Tensor& out, const Tensor& lse, const OptionalTensor& mask,
                int64_t axis, double scale, double dropout, const OptionalTensor& seed) {
  const Inputs in(qkv, mask, axis, scale, dropout, seed);
  const Tensor dout_p = as_contiguous(dout), out_p = as_contiguous(out), lse_p = as_contiguous(lse);
  const Tensor dqkv = empty(qkv, {qkv.size(0), qkv.size(1), qkv.size(2), 3, qkv.size(4), qkv.size(5)}, qkv.scalar_type());
  const AxialAttentionGradient g{out_p.data_ptr(), dout_p.data_ptr(), data<float>(lse_p), dqkv.data_ptr(), in.strides(dqkv),
                                 dqkv.stride(3)};
  LIFTER_CALL(axial_attention_backward, in.attention, g);
  return dqkv;
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) {
  m.impl("axial_attention", TORCH_BOX(&lifter::forward));
  m.impl("axial_attention_bwd", TORCH_BOX(&lifter::backward));
}
