// topk_temporal_mask on the CPU: strides and output around csrc/cpu/topk_temporal_mask.cpp.
#include "cpu/topk_temporal_mask.h"

#include "glue.h"

namespace lifter {
namespace {

Tensor forward(const Tensor& x_, int64_t k) {
  Inputs in;
  const Tensor& x = in.contiguous_channels(x_);
  TopkTemporalMask s{};
  s.batch = x.size(0), s.frames = x.size(1), s.joints = x.size(2), s.channels = x.size(3), s.k = k;
  s.precision = precision_of("topk_temporal_mask", x);
  s.x = x.data_ptr(), s.x_batch = x.stride(0), s.x_frame = x.stride(1), s.x_joint = x.stride(2);
  const Tensor mask = empty(x, {s.batch, s.joints, s.frames, (s.frames + kWordBits - 1) / kWordBits}, ScalarType::Int);
  LIFTER_CALL(topk_temporal_mask, s, output<uint32_t>(mask));
  return mask;
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) { m.impl("topk_temporal_mask", TORCH_BOX(&lifter::forward)); }
