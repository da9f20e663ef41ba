// selective_scan and selective_scan_bwd on the CPU: layouts, workspaces and outputs around csrc/cpu/selective_scan.cpp.
#include "cpu/selective_scan.h"

#include <algorithm>

#include "glue.h"

namespace lifter {
namespace {

// A map with contiguous steps or contiguous channels, as it is; any other, of any number of dimensions, by one copy.
Tensor in_order(const Tensor& t) {
  return t.stride(t.dim() - 1) == 1 || t.stride(t.dim() - 2) == 1 ? t : torch::stable::contiguous(t);
}

MapStrides strides(const Tensor& t) { return {t.stride(0), t.stride(t.dim() - 2), t.stride(t.dim() - 1)}; }

SelectiveScan selective_scan(Inputs& in, const Tensor& u_, const Tensor& delta_, const Tensor& A, const Tensor& B_,
                             const Tensor& C_, const OptionalTensor& D, const OptionalTensor& z_,
                             const OptionalTensor& delta_bias, bool softplus, const OptionalTensor& initial_state) {
  SelectiveScan s{};
  s.constant_B = B_.dim() == 2, s.constant_C = C_.dim() == 2;
  const Tensor &u = in.keep(in_order(u_)), &delta = in.keep(in_order(delta_));
  const Tensor& B = s.constant_B ? in.contiguous(B_) : in.keep(in_order(B_));
  const Tensor& C = s.constant_C ? in.contiguous(C_) : in.keep(in_order(C_));
  s.batch = u.size(0), s.dim = u.size(1), s.length = u.size(2), s.states = A.size(1);
  STD_TORCH_CHECK(s.constant_B || s.constant_C || B.size(1) == C.size(1), "selective_scan: B has ", B.size(1),
                  " groups and C has ", C.size(1), ", expected the same number");
  s.groups = !s.constant_B ? B.size(1) : !s.constant_C ? C.size(1) : 1;
  s.bfloat16 = is_bfloat16("selective_scan", u), s.softplus = softplus;
  s.u = u.data_ptr(), s.delta = delta.data_ptr(), s.B = B.data_ptr(), s.C = C.data_ptr();
  s.u_strides = strides(u), s.delta_strides = strides(delta);
  if (z_) {
    const Tensor& z = in.keep(in_order(*z_));
    s.z = z.data_ptr(), s.z_strides = strides(z);
  }
  if (!s.constant_B) s.B_strides = strides(B), s.B_group = B.stride(1);
  if (!s.constant_C) s.C_strides = strides(C), s.C_group = C.stride(1);
  s.A = in.data<float>(A), s.D = in.data<float>(D), s.delta_bias = in.data<float>(delta_bias);
  s.initial_state = in.data<float>(initial_state);
  if (!s.constant_B || !s.constant_C)
    s.rows = output<float>(in.keep(empty(A, {s.batch, s.groups, s.length, 2 * s.states}, ScalarType::Float)));
  return s;
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                                           const Tensor& C, const OptionalTensor& D, const OptionalTensor& z,
                                           const OptionalTensor& delta_bias, bool delta_softplus,
                                           const OptionalTensor& initial_state, bool save_states) {
  Inputs in;
  const SelectiveScan s = selective_scan(in, u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state);
  const Tensor out = map_like(u);
  const Tensor last_state = empty(u, {s.batch, s.dim, s.states}, ScalarType::Float);
  const int64_t chunks = save_states ? (s.length + kChunk - 1) / kChunk : 0;
  const Tensor states = empty(u, {s.batch, chunks, s.states, s.dim}, ScalarType::Float);
  const SelectiveScanOutput o{out.data_ptr(), strides(out), output<float>(last_state), output_or_null<float>(states)};
  LIFTER_CALL(selective_scan_forward, s, o);
  return {out, last_state, states};
}

using NineTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

NineTensors backward(const Tensor& dout_, const OptionalTensor& dlast_state, const Tensor& u, const Tensor& delta,
                     const Tensor& A, const Tensor& B, const Tensor& C, const OptionalTensor& D,
                     const OptionalTensor& z, const OptionalTensor& delta_bias, bool delta_softplus,
                     bool has_initial_state, const Tensor& states) {
  Inputs in;
  const SelectiveScan s = selective_scan(in, u, delta, A, B, C, D, z, delta_bias, delta_softplus, std::nullopt);

  SelectiveScanGradient g{};
  const Tensor& dout = in.keep(in_order(dout_));
  g.dout = dout.data_ptr(), g.dout_strides = strides(dout);
  g.dlast_state = in.data<float>(dlast_state), g.states = in.data<float>(states);
  // Enough tasks for the threads of a large machine, chosen by shape alone so that the sums never depend on threads.
  const int64_t most = std::max<int64_t>(1, (s.dim / s.groups + kMaxLanes - 1) / kMaxLanes);
  g.splits = std::clamp<int64_t>(64 / std::max<int64_t>(1, s.batch * s.groups), 1, most);

  const auto partial = [&](bool needed, int64_t last) {
    return empty(u, {needed ? s.batch * s.dim * last : 0}, ScalarType::Float);
  };
  const auto partial_rows = [&](bool constant) {
    return constant ? partial(true, s.states)
                    : empty(u, {g.splits * s.batch * s.groups * s.length * s.states}, ScalarType::Float);
  };
  const Tensor du = map_like(u), ddelta = map_like(delta), dz = z ? map_like(*z) : absent(u);
  const Tensor dA = partial(true, s.states), dD = partial(D.has_value(), 1), dbias = partial(delta_bias.has_value(), 1);
  const Tensor dB = partial_rows(s.constant_B), dC = partial_rows(s.constant_C);
  const Tensor dinitial =
      has_initial_state ? empty(u, {s.batch, s.dim, s.states}, ScalarType::Float) : absent(u);
  g.du = du.data_ptr(), g.ddelta = ddelta.data_ptr(), g.dz = z ? dz.data_ptr() : nullptr;
  g.du_strides = strides(du), g.ddelta_strides = strides(ddelta);
  if (z) g.dz_strides = strides(dz);
  g.dA = output<float>(dA), g.dD = output_or_null<float>(dD), g.ddelta_bias = output_or_null<float>(dbias);
  g.dB = output<float>(dB), g.dC = output<float>(dC), g.dinitial_state = output_or_null<float>(dinitial);
  LIFTER_CALL(selective_scan_backward, s, g);

  const auto rows = [&](const Tensor& rows_partial, bool constant) {
    if (constant) return sum_over(rows_partial, s.batch, {s.dim, s.states});
    const Tensor out = empty(u, {s.batch, s.groups, s.states, s.length}, u.scalar_type());
    LIFTER_CALL(sum_partial_rows, data<float>(rows_partial), g.splits, s.batch * s.groups, s.length, s.states,
                s.bfloat16, out.data_ptr());
    return out;
  };
  return {du,
          ddelta,
          sum_over(dA, s.batch, {s.dim, s.states}),
          rows(dB, s.constant_B),
          rows(dC, s.constant_C),
          D ? sum_over(dD, s.batch, {s.dim}) : absent(u),
          dz,
          delta_bias ? sum_over(dbias, s.batch, {s.dim}) : absent(u),
          dinitial};
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) {
  m.impl("selective_scan", TORCH_BOX(&lifter::forward));
  m.impl("selective_scan_bwd", TORCH_BOX(&lifter::backward));
}
