// topk_temporal_mask on the CPU: strides and output around csrc/cpu/topk_temporal_mask.cpp.
#include "cpu/topk_temporal_mask.h"

#include "tensor.h"

namespace lifter {
namespace {

Tensor forward(const Tensor& x_, int64_t k) {
  const Tensor x = x_.stride(3) == 1 ? x_ : torch::stable::contiguous(x_);
  TopkTemporalMask s{};
  s.batch = x.size(0), s.frames = x.size(1), s.joints = x.size(2), s.channels = x.size(3), s.k = k;
  s.bfloat16 = is_bfloat16("topk_temporal_mask", x);
  s.pairs = s.bfloat16 && capability() == Capability::avx512_bf16;
  s.x = x.data_ptr(), s.x_batch = x.stride(0), s.x_frame = x.stride(1), s.x_joint = x.stride(2);
  const Tensor mask = empty(x, {s.batch, s.joints, s.frames, (s.frames + 31) / 32}, ScalarType::Int);
  LIFTER_CALL(topk_temporal_mask, s, output<uint32_t>(mask));
  return mask;
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) { m.impl("topk_temporal_mask", TORCH_BOX(&lifter::forward)); }
