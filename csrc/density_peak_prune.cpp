// density_peak_prune on the CPU: strides and outputs around csrc/cpu/density_peak_prune.cpp.
#include "cpu/density_peak_prune.h"

#include "glue.h"

namespace lifter {
namespace {

std::tuple<Tensor, Tensor> forward(const Tensor& x_, int64_t kept, int64_t k, const OptionalTensor& mask_,
                                   const OptionalTensor& noise, const OptionalTensor& valid) {
  Inputs in;
  const Tensor& x = in.contiguous_channels(x_);
  DensityPeakPrune s{};
  s.batch = x.size(0), s.frames = x.size(1), s.channels = x.size(2), s.kept = kept, s.nearest = k;
  s.precision = precision_of("density_peak_prune", x);
  s.x = x.data_ptr(), s.x_batch = x.stride(0), s.x_frame = x.stride(1);
  if (const Tensor* mask = in.contiguous_channels(mask_))
    s.mask = data<float>(*mask), s.mask_batch = mask->stride(0), s.mask_frame = mask->stride(1);
  s.noise = in.data<float>(noise), s.valid = in.data<bool>(valid);
  const Tensor indices = empty(x, {s.batch, kept}, ScalarType::Long);
  const Tensor scores = empty(x, {s.batch, s.frames}, ScalarType::Float);
  LIFTER_CALL(density_peak_prune, s, output<int64_t>(indices), output<float>(scores));
  return {indices, scores};
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) { m.impl("density_peak_prune", TORCH_BOX(&lifter::forward)); }
