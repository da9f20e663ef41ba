// retention and retention_bwd on the CPU: strides, xPos tables and outputs around csrc/cpu/retention.cpp.
#include "cpu/retention.h"

#include "glue.h"
#include "rotary_tables.h"

namespace lifter {
namespace {

Retention retention(Inputs& in, const Tensor& q_, const Tensor& k_, const Tensor& v_, const Tensor& decay,
                    const OptionalTensor& state, const OptionalTensor& xpos_scale, double scale, int64_t chunk, bool causal) {
  const Tensor &q = in.contiguous_channels(q_), &k = in.contiguous_channels(k_), &v = in.contiguous_channels(v_);
  Retention r{};
  r.batch = q.size(0), r.frames = q.size(1), r.joints = q.size(2), r.heads = q.size(3);
  r.keys = q.size(4), r.values = v.size(4);
  r.chunk = chunk, r.causal = causal, r.scale = static_cast<float>(scale);
  r.precision = precision_of("retention", q);
  r.q = q.data_ptr(), r.k = k.data_ptr(), r.v = v.data_ptr();
  r.q_strides = token_strides(q, 3), r.k_strides = token_strides(k, 3), r.v_strides = token_strides(v, 3);
  r.decay = in.data<float>(decay), r.state = in.data<float>(state);
  if (xpos_scale)
    r.rotary = in.data<float>(rotary_tables(*xpos_scale, r.keys, r.chunk)), r.rotary_row = rotary_width(r.keys);
  return r;
}

std::tuple<Tensor, Tensor> forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& decay,
                                   const OptionalTensor& state, const OptionalTensor& xpos_scale, double scale,
                                   int64_t chunk, bool causal, bool output_final_state) {
  Inputs in;
  Retention r = retention(in, q, k, v, decay, state, xpos_scale, scale, chunk, causal);
  const Tensor out = contiguous_like(v);
  r.out_strides = token_strides(out, 3);
  const Tensor final = output_final_state
                           ? empty(q, {r.batch, r.joints, r.heads, r.keys, r.values}, ScalarType::Float)
                           : absent(q);
  LIFTER_CALL(retention_forward, r, out.data_ptr(), output_or_null<float>(final));
  return {out, final};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& dout_, const OptionalTensor& dfinal, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& decay,
    const OptionalTensor& state, const OptionalTensor& xpos_scale, double scale, int64_t chunk, bool causal) {
  Inputs in;
  Retention r = retention(in, q, k, v, decay, state, xpos_scale, scale, chunk, causal);
  const Tensor& dout = in.contiguous(dout_);
  r.out_strides = token_strides(dout, 3);
  const Tensor dq = contiguous_like(q), dk = contiguous_like(k), dv = contiguous_like(v);
  const Tensor ddecay = empty(q, {r.batch, r.joints, r.heads}, ScalarType::Float);
  const Tensor dstate = state ? contiguous_like(*state) : absent(q);
  RetentionGradient g{};
  g.dout = dout.data_ptr(), g.dfinal = in.data<float>(dfinal);
  g.dq = dq.data_ptr(), g.dk = dk.data_ptr(), g.dv = dv.data_ptr();
  g.dq_strides = token_strides(dq, 3), g.dv_strides = token_strides(dv, 3);
  g.ddecay = output<float>(ddecay), g.dstate = output_or_null<float>(dstate);
  LIFTER_CALL(retention_backward, r, g);
  return {dq, dk, dv, torch::stable::sum(ddecay, std::vector<int64_t>{0}), dstate};
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) {
  m.impl("retention", TORCH_BOX(&lifter::forward));
  m.impl("retention_bwd", TORCH_BOX(&lifter::backward));
}
