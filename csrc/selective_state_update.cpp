// selective_state_update on the CPU: layouts and the output around csrc/cpu/selective_state_update.cpp.
#include "cpu/selective_state_update.h"

#include "tensor.h"

namespace lifter {
namespace {

Tensor forward(Tensor state, const Tensor& x_, const Tensor& dt_, const Tensor& A_, const Tensor& B_, const Tensor& C_,
               const OptionalTensor& D_, const OptionalTensor& z_, const OptionalTensor& dt_bias_, bool dt_softplus) {
  const Tensor h = as_contiguous(state), x = as_contiguous(x_), dt = as_contiguous(dt_), A = as_contiguous(A_), B = as_contiguous(B_), C = as_contiguous(C_);
  const OptionalTensor D = as_contiguous(D_), z = as_contiguous(z_), dt_bias = as_contiguous(dt_bias_);
  const Tensor out = empty(x, {x.size(0), x.size(1)}, x.scalar_type());
  STD_TORCH_CHECK(B.size(1) == C.size(1), "selective_state_update: B has ", B.size(1), " groups and C has ", C.size(1),
                  ", expected the same number");
  const SelectiveStateUpdate s{x.size(0), x.size(1), A.size(1), B.size(1), is_bfloat16("selective_state_update", x),
                               dt_softplus, output<float>(h), x.data_ptr(), dt.data_ptr(),
                               z ? z->data_ptr() : nullptr, B.data_ptr(), C.data_ptr(), data<float>(A), data<float>(D),
                               data<float>(dt_bias), out.data_ptr()};
  LIFTER_CALL(selective_state_update, s);
  if (!state.is_contiguous()) torch::stable::copy_(state, h);
  return out;
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) { m.impl("selective_state_update", TORCH_BOX(&lifter::forward)); }
