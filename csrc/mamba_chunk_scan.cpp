// mamba_chunk_scan and mamba_chunk_scan_bwd on the CPU: strides and outputs around csrc/cpu/mamba_chunk_scan.cpp.
#include "cpu/mamba_chunk_scan.h"

#include <algorithm>

#include "glue.h"

namespace lifter {
namespace {

// Tasks of a call, if its batch has fewer groups: enough for many threads, few enough that heads share what is their group's.
// Shape alone decides, so that sums never depend on threads.
constexpr int64_t kTasks = 16;

Strides head_strides(const Tensor& t) { return {t.stride(0), 0, t.stride(1), t.stride(2)}; }

MambaChunkScan scan(Inputs& in, const Tensor& x_, const Tensor& dt, const Tensor& A, const Tensor& B_, const Tensor& C_,
                    const OptionalTensor& D, const OptionalTensor& z_, const OptionalTensor& dt_bias,
                    const OptionalTensor& initial_states, const OptionalTensor& seq_idx, bool softplus, double dt_min,
                    double dt_max) {
  const Tensor &x = in.contiguous_channels(x_), &B = in.contiguous_channels(B_), &C = in.contiguous_channels(C_);
  MambaChunkScan s{};
  s.batch = x.size(0), s.length = x.size(1), s.heads = x.size(2), s.width = x.size(3);
  s.groups = B.size(2), s.states = B.size(3);
  s.parts = std::clamp<int64_t>(kTasks / std::max<int64_t>(1, s.batch * s.groups), 1, s.heads / s.groups);
  s.bfloat16 = is_bfloat16("mamba_chunk_scan", x), s.softplus = softplus;
  s.least = static_cast<float>(dt_min), s.largest = static_cast<float>(dt_max);
  s.x = x.data_ptr(), s.B = B.data_ptr(), s.C = C.data_ptr();
  s.x_strides = head_strides(x), s.B_strides = head_strides(B), s.C_strides = head_strides(C);
  if (const Tensor* z = in.contiguous_channels(z_)) s.z = z->data_ptr(), s.z_strides = head_strides(*z);
  s.dt = in.data<float>(dt), s.A = in.data<float>(A), s.D = in.data<float>(D), s.dt_bias = in.data<float>(dt_bias);
  s.initial_states = in.data<float>(initial_states), s.seq_idx = in.data<int32_t>(seq_idx);
  return s;
}

std::tuple<Tensor, Tensor> forward(const Tensor& x, const Tensor& dt, const Tensor& A, const Tensor& B, const Tensor& C,
                                   const OptionalTensor& D, const OptionalTensor& z, const OptionalTensor& dt_bias,
                                   const OptionalTensor& initial_states, const OptionalTensor& seq_idx, bool softplus,
                                   double dt_min, double dt_max, bool return_final_states) {
  Inputs in;
  MambaChunkScan s = scan(in, x, dt, A, B, C, D, z, dt_bias, initial_states, seq_idx, softplus, dt_min, dt_max);
  const Tensor out = contiguous_like(x);
  s.out_strides = head_strides(out);
  const Tensor final_states =
      return_final_states ? empty(x, {s.batch, s.heads, s.width, s.states}, ScalarType::Float) : absent(x);
  LIFTER_CALL(mamba_chunk_scan_forward, s, out.data_ptr(), output_or_null<float>(final_states));
  return {out, final_states};
}

using NineTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

NineTensors backward(const Tensor& dout_, const OptionalTensor& dfinal_states, const Tensor& x, const Tensor& dt,
                     const Tensor& A, const Tensor& B, const Tensor& C, const OptionalTensor& D, const OptionalTensor& z,
                     const OptionalTensor& dt_bias, const OptionalTensor& initial_states, const OptionalTensor& seq_idx,
                     bool softplus, double dt_min, double dt_max) {
  Inputs in;
  MambaChunkScan s = scan(in, x, dt, A, B, C, D, z, dt_bias, initial_states, seq_idx, softplus, dt_min, dt_max);
  const Tensor& dout = in.contiguous(dout_);
  s.out_strides = head_strides(dout);
  const auto like = [&](const OptionalTensor& t) { return t ? contiguous_like(*t) : absent(x); };
  const auto partial = [&](bool wanted, int64_t size) {
    return empty(x, {wanted ? s.batch * s.heads * size : 0}, ScalarType::Float);
  };
  const auto rows = [&] { return empty(x, {s.parts, s.batch, s.length, s.groups, s.states}, ScalarType::Float); };
  const Tensor dx = like(x), ddt = like(dt), dB = like(B), dC = like(C), dz = like(z), dinitial = like(initial_states);
  const Tensor dA = partial(true, 1), dD = partial(D.has_value(), s.width), dbias = partial(dt_bias.has_value(), 1);
  const Tensor dB_parts = rows(), dC_parts = rows();

  MambaChunkScanGradient g{};
  g.dout = dout.data_ptr(), g.dfinal_states = in.data<float>(dfinal_states);
  g.dx = dx.data_ptr(), g.dB = dB.data_ptr(), g.dC = dC.data_ptr(), g.dz = z ? dz.data_ptr() : nullptr;
  g.ddt = output<float>(ddt), g.dA = output<float>(dA);
  g.ddt_bias = output_or_null<float>(dbias), g.dD = output_or_null<float>(dD);
  g.dinitial_states = output_or_null<float>(dinitial);
  g.dB_parts = output<float>(dB_parts), g.dC_parts = output<float>(dC_parts);
  LIFTER_CALL(mamba_chunk_scan_backward, s, g);
  return {dx,
          ddt,
          sum_over(dA, s.batch, {s.heads}),
          dB,
          dC,
          D ? sum_over(dD, s.batch, {s.heads, s.width}) : absent(x),
          dz,
          dt_bias ? sum_over(dbias, s.batch, {s.heads}) : absent(x),
          dinitial};
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) {
  m.impl("mamba_chunk_scan", TORCH_BOX(&lifter::forward));
  m.impl("mamba_chunk_scan_bwd", TORCH_BOX(&lifter::backward));
}
