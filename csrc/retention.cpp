// retention and retention_bwd on the CPU: strides, xPos tables and outputs around csrc/cpu/retention.cpp.
#include "cpu/retention.h"

#include "tensor.h"
#include "rotary_tables.h"

namespace lifter {
namespace {

Tensor with_contiguous_channels(const Tensor& t) { return t.stride(4) == 1 ? t : torch::stable::contiguous(t); }
Strides strides(const Tensor& t) { return {t.stride(0), t.stride(2), t.stride(1), t.stride(3)}; }

// Owns the inputs for as long as the kernel reads them.
struct Inputs {
  Inputs(const Tensor& q_, const Tensor& k_, const Tensor& v_, const Tensor& decay_, const OptionalTensor& state_,
         const OptionalTensor& xpos_scale, double scale, int64_t chunk, bool causal)
      : q(with_contiguous_channels(q_)), k(with_contiguous_channels(k_)), v(with_contiguous_channels(v_)),
        decay(as_contiguous(decay_)), state(as_contiguous(state_)) {
    r.batch = q.size(0), r.frames = q.size(1), r.joints = q.size(2), r.heads = q.size(3);
    r.keys = q.size(4), r.values = v.size(4);
    r.chunk = chunk, r.causal = causal, r.scale = static_cast<float>(scale);
    r.bfloat16 = is_bfloat16("retention", q);
    r.pairs = r.bfloat16 && capability() == Capability::avx512_bf16;
    r.q_strides = strides(q), r.k_strides = strides(k), r.v_strides = strides(v);
    const int64_t head = r.values, joint = head * r.heads, frame = joint * r.joints;
    r.out_strides = {frame * r.frames, joint, frame, head};
    r.q = q.data_ptr(), r.k = k.data_ptr(), r.v = v.data_ptr();
    r.decay = data<float>(decay), r.state = data<float>(state);
    if (xpos_scale) {
      rotary = rotary_tables(data<float>(as_contiguous(*xpos_scale)), r.keys, r.chunk);
      r.rotary = rotary.data(), r.rotary_row = rotary_width(r.keys);
    }
  }

  Tensor q, k, v, decay;
  OptionalTensor state;
  std::vector<float> rotary;
  Retention r{};
};

std::tuple<Tensor, Tensor> forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& decay,
                                   const OptionalTensor& state, const OptionalTensor& xpos_scale, double scale,
                                   int64_t chunk, bool causal, bool output_final_state) {
  const Inputs in(q, k, v, decay, state, xpos_scale, scale, chunk, causal);
  const Retention& r = in.r;
  const Tensor out = empty(q, {r.batch, r.frames, r.joints, r.heads, r.values}, q.scalar_type());
  const Tensor final = output_final_state
                           ? empty(q, {r.batch, r.joints, r.heads, r.keys, r.values}, ScalarType::Float)
                           : absent(q);
  LIFTER_CALL(retention_forward, r, out.data_ptr(), output_or_null<float>(final));
  return {out, final};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& dout, const OptionalTensor& dfinal, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& decay,
    const OptionalTensor& state, const OptionalTensor& xpos_scale, double scale, int64_t chunk, bool causal) {
  const Inputs in(q, k, v, decay, state, xpos_scale, scale, chunk, causal);
  const Retention& r = in.r;
  const Tensor dout_p = as_contiguous(dout);
  const OptionalTensor dfinal_p = as_contiguous(dfinal);
  const auto like = [&](const Tensor& t) {
    return empty(t, {r.batch, r.frames, r.joints, r.heads, t.size(4)}, t.scalar_type());
  };
  const Tensor dq = like(q), dk = like(k), dv = like(v);
  const Tensor ddecay = empty(q, {r.batch, r.joints, r.heads}, ScalarType::Float);
  const Tensor dstate =
      state ? empty(q, {r.batch, r.joints, r.heads, r.keys, r.values}, ScalarType::Float) : absent(q);
  const RetentionGradient g{dout_p.data_ptr(), data<float>(dfinal_p), dq.data_ptr(),   dk.data_ptr(),
                            dv.data_ptr(),     strides(dq),           strides(dv),     output<float>(ddecay),
                            output_or_null<float>(dstate)};
  LIFTER_CALL(retention_backward, r, g);
  return {dq, dk, dv, torch::stable::sum(ddecay, std::vector<int64_t>{0}), dstate};
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) {
  m.impl("retention", TORCH_BOX(&lifter::forward));
  m.impl("retention_bwd", TORCH_BOX(&lifter::backward));
}
