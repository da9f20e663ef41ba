// selective_state_update on the CPU: layouts and the output around csrc/cpu/selective_state_update.cpp.
#include "cpu/selective_state_update.h"

#include "glue.h"

namespace lifter {
namespace {

Tensor forward(Tensor state, const Tensor& x, const Tensor& dt, const Tensor& A, const Tensor& B, const Tensor& C,
               const OptionalTensor& D, const OptionalTensor& z_, const OptionalTensor& dt_bias, bool dt_softplus) {
  STD_TORCH_CHECK(B.size(1) == C.size(1), "selective_state_update: B has ", B.size(1), " groups and C has ", C.size(1),
                  ", expected the same number");
  Inputs in;
  SelectiveStateUpdate s{};
  s.batch = x.size(0), s.dim = x.size(1), s.states = A.size(1), s.groups = B.size(1);
  s.heads = A.size(0), s.constant = A.stride(1) == 0 || A.size(1) == 1;
  s.bfloat16 = is_bfloat16("selective_state_update", x), s.softplus = dt_softplus;
  const Tensor h = as_contiguous(state), out = contiguous_like(x);
  s.state = output<float>(h), s.out = out.data_ptr();
  s.x = in.contiguous(x).data_ptr(), s.dt = in.contiguous(dt).data_ptr();
  if (const Tensor* z = in.contiguous(z_)) s.z = z->data_ptr();
  s.B = in.contiguous(B).data_ptr(), s.C = in.contiguous(C).data_ptr();
  s.A = in.data<float>(A), s.D = in.data<float>(D), s.dt_bias = in.data<float>(dt_bias);
  LIFTER_CALL(selective_state_update, s);
  if (!state.is_contiguous()) torch::stable::copy_(state, h);
  return out;
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) { m.impl("selective_state_update", TORCH_BOX(&lifter::forward)); }
