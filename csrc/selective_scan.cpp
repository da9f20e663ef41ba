// selective_scan and selective_scan_bwd on the CPU: layouts, workspaces and outputs around csrc/cpu/selective_scan.cpp.
#include "cpu/selective_scan.h"

#include <algorithm>

#include "cpu/layout.h"
#include "tensor.h"

namespace lifter {
namespace {

// A map with contiguous steps or contiguous channels, as it is; any other, of any number of dimensions, by one copy.
Tensor in_order(const Tensor& t) {
  return t.stride(t.dim() - 1) == 1 || t.stride(t.dim() - 2) == 1 ? t : torch::stable::contiguous(t);
}
OptionalTensor in_order(const OptionalTensor& t) { return t ? OptionalTensor(in_order(*t)) : std::nullopt; }

MapStrides strides(const Tensor& t) { return {t.stride(0), t.stride(t.dim() - 2), t.stride(t.dim() - 1)}; }
MapStrides strides(const OptionalTensor& t) { return t ? strides(*t) : MapStrides{}; }

// Owns inputs and the workspace for as long as the kernel reads them.
struct Inputs {
  Inputs(const Tensor& u_, const Tensor& delta_, const Tensor& A_, const Tensor& B_, const Tensor& C_,
         const OptionalTensor& D_, const OptionalTensor& z_, const OptionalTensor& delta_bias_, bool softplus,
         const OptionalTensor& initial_state_)
      : u(in_order(u_)), delta(in_order(delta_)), A(as_contiguous(A_)), B(B_.dim() == 2 ? as_contiguous(B_) : in_order(B_)),
        C(C_.dim() == 2 ? as_contiguous(C_) : in_order(C_)), D(as_contiguous(D_)), z(in_order(z_)), delta_bias(as_contiguous(delta_bias_)),
        initial_state(as_contiguous(initial_state_)) {
    scan.batch = u.size(0), scan.dim = u.size(1), scan.length = u.size(2), scan.states = A.size(1);
    scan.constant_B = B.dim() == 2, scan.constant_C = C.dim() == 2;
    STD_TORCH_CHECK(scan.constant_B || scan.constant_C || B.size(1) == C.size(1),
                    "selective_scan: B has ", B.size(1), " groups and C has ", C.size(1), ", expected the same number");
    scan.groups = !scan.constant_B ? B.size(1) : !scan.constant_C ? C.size(1) : 1;
    scan.bfloat16 = is_bfloat16("selective_scan", u), scan.softplus = softplus;
    scan.u = u.data_ptr(), scan.delta = delta.data_ptr(), scan.z = z ? z->data_ptr() : nullptr;
    scan.u_strides = strides(u), scan.delta_strides = strides(delta), scan.z_strides = strides(z);
    if (!scan.constant_B) scan.B_strides = strides(B), scan.B_group = B.stride(1);
    if (!scan.constant_C) scan.C_strides = strides(C), scan.C_group = C.stride(1);
    scan.A = data<float>(A), scan.B = B.data_ptr(), scan.C = C.data_ptr();
    scan.D = data<float>(D), scan.delta_bias = data<float>(delta_bias);
    scan.initial_state = data<float>(initial_state);
    const bool rows_needed = !scan.constant_B || !scan.constant_C;
    rows = empty(A, {rows_needed ? scan.batch * scan.groups * scan.length * 2 * scan.states : 0}, ScalarType::Float);
    scan.rows = output<float>(rows);
  }

  Tensor u, delta, A, B, C;
  OptionalTensor D, z, delta_bias, initial_state;
  Tensor rows;
  SelectiveScan scan{};
};

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                                           const Tensor& C, const OptionalTensor& D, const OptionalTensor& z,
                                           const OptionalTensor& delta_bias, bool delta_softplus,
                                           const OptionalTensor& initial_state, bool save_states) {
  const Inputs in(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state);
  const SelectiveScan& s = in.scan;
  const Tensor out = map_like(u);
  const Tensor last_state = empty(u, {s.batch, s.dim, s.states}, ScalarType::Float);
  const int64_t chunks = save_states ? (s.length + kChunk - 1) / kChunk : 0;
  const Tensor states = empty(u, {s.batch, chunks, s.states, s.dim}, ScalarType::Float);
  const SelectiveScanOutput o{out.data_ptr(), strides(out), output<float>(last_state), output_or_null<float>(states)};
  LIFTER_CALL(selective_scan_forward, s, o);
  return {out, last_state, states};
}

using NineTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Tensor sum_over(const Tensor& partial, int64_t parts, std::initializer_list<int64_t> shape) {
  const Tensor out = empty(partial, shape, ScalarType::Float);
  LIFTER_CALL(sum_partials, data<float>(partial), parts, out.numel(), output<float>(out));
  return out;
}

NineTensors backward(const Tensor& dout, const OptionalTensor& dlast_state, const Tensor& u, const Tensor& delta,
                     const Tensor& A, const Tensor& B, const Tensor& C, const OptionalTensor& D,
                     const OptionalTensor& z, const OptionalTensor& delta_bias, bool delta_softplus,
                     bool has_initial_state, const Tensor& states) {
  const Inputs in(u, delta, A, B, C, D, z, delta_bias, delta_softplus, std::nullopt);
  const SelectiveScan& s = in.scan;
  const Tensor dout_c = in_order(dout), states_c = as_contiguous(states);
  const OptionalTensor dlast_c = as_contiguous(dlast_state);

  SelectiveScanGradient g{};
  g.dout = dout_c.data_ptr(), g.dout_strides = strides(dout_c), g.dlast_state = data<float>(dlast_c), g.states = data<float>(states_c);
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
