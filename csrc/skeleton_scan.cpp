// skeleton_scan and skeleton_scan_bwd on the CPU: checks, workspaces and outputs around csrc/cpu/skeleton_scan.cpp.
#include "cpu/skeleton_scan.h"

#include <algorithm>

#include "glue.h"

namespace lifter {
namespace {

SkeletonScan skeleton_scan(Inputs& in, const Tensor& x, const Tensor& proj, const Tensor& dt_weight, const Tensor& dt_bias,
                           const Tensor& A, const Tensor& D, const Tensor& gather, const std::vector<int64_t>& channel_groups,
                           const std::vector<int64_t>& walks) {
  SkeletonScan s{};
  s.batch = x.size(0), s.frames = x.size(1), s.joints = x.size(2), s.channels = x.size(3);
  s.directions = A.size(0), s.states = A.size(2), s.rank = dt_weight.size(2);
  s.groups = gather.size(1), s.terms = gather.size(2);
  s.bfloat16 = is_bfloat16("skeleton_scan", x);
  s.x = in.contiguous(x).data_ptr(), s.proj = in.contiguous(proj).data_ptr();
  s.dt_weight = in.data<float>(dt_weight), s.dt_bias = in.data<float>(dt_bias);
  s.A = in.data<float>(A), s.D = in.data<float>(D), s.gather = in.data<int32_t>(gather);
  s.group_sizes = channel_groups.data(), s.walks = walks.data();
  for (int64_t i = 0; i < gather.numel(); ++i)
    STD_TORCH_CHECK(s.gather[i] < s.joints, "skeleton_scan: gather names joint ", s.gather[i], ", expected less than ",
                    s.joints);
  STD_TORCH_CHECK(s.frames * s.joints < INT32_MAX / kMaxLanes, "skeleton_scan: a clip of ", s.frames, " frames and ", s.joints,
                  " joints is too long");
  s.rows = output<float>(in.keep(
      empty(A, {s.batch, s.directions, s.frames * s.joints, s.rank + 2 * s.states}, ScalarType::Float)));
  s.tokens = output<int32_t>(in.keep(
      empty(A, {s.directions, 1 + s.groups * s.terms, s.frames * s.joints}, ScalarType::Int)));
  return s;
}

std::tuple<Tensor, Tensor> forward(const Tensor& x, const Tensor& proj, const Tensor& dt_weight, const Tensor& dt_bias,
                                   const Tensor& A, const Tensor& D, const Tensor& gather,
                                   std::vector<int64_t> channel_groups, std::vector<int64_t> directions,
                                   bool save_states) {
  Inputs in;
  const SkeletonScan s = skeleton_scan(in, x, proj, dt_weight, dt_bias, A, D, gather, channel_groups, directions);
  const Tensor out = contiguous_like(x);
  const int64_t chunks = save_states ? (s.frames * s.joints + kChunk - 1) / kChunk : 0;
  const Tensor states = empty(x, {s.batch, s.directions, chunks, s.states, s.channels}, ScalarType::Float);
  LIFTER_CALL(skeleton_scan_forward, s, out.data_ptr(), output_or_null<float>(states));
  return {out, states};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& dout, const Tensor& x, const Tensor& proj, const Tensor& dt_weight, const Tensor& dt_bias,
    const Tensor& A, const Tensor& D, const Tensor& gather, std::vector<int64_t> channel_groups,
    std::vector<int64_t> directions, const Tensor& states) {
  Inputs in;
  const SkeletonScan s = skeleton_scan(in, x, proj, dt_weight, dt_bias, A, D, gather, channel_groups, directions);
  SkeletonScanGradient g{};
  g.dout = in.contiguous(dout).data_ptr(), g.states = in.data<float>(states);
  // Chosen by shape alone, so that the sums never depend on the number of threads; few, since each split has its own
  // copy of the gradients of dt, B and C, which are as large as the map.
  int64_t blocks = 0;
  LIFTER_CALL(skeleton_scan_blocks, s, &blocks);
  g.splits = std::clamp<int64_t>(16 / std::max<int64_t>(1, s.batch), 1, std::min<int64_t>(4, blocks));

  const int64_t length = s.frames * s.joints, width = s.rank + 2 * s.states;
  const auto partial = [&](int64_t last) {
    return empty(x, {s.batch, s.directions, s.channels, last}, ScalarType::Float);
  };
  const Tensor dx = contiguous_like(x);
  const Tensor dproj = empty(x, {s.batch, s.frames, s.joints, s.groups, s.directions, width}, x.scalar_type());
  const Tensor ddt_weight = partial(s.rank), ddt_bias = partial(1), dA = partial(s.states), dD = partial(1);
  const Tensor drows = empty(x, {g.splits, s.batch, s.directions, length, width}, ScalarType::Float);
  g.dx = dx.data_ptr(), g.dproj = dproj.data_ptr(), g.drows = output<float>(drows);
  g.ddt_weight = output<float>(ddt_weight), g.ddt_bias = output<float>(ddt_bias);
  g.dA = output<float>(dA), g.dD = output<float>(dD);
  LIFTER_CALL(skeleton_scan_backward, s, g);

  return {dx,
          dproj,
          sum_over(ddt_weight, s.batch, {s.directions, s.channels, s.rank}),
          sum_over(ddt_bias, s.batch, {s.directions, s.channels}),
          sum_over(dA, s.batch, {s.directions, s.channels, s.states}),
          sum_over(dD, s.batch, {s.directions, s.channels})};
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) {
  m.impl("skeleton_scan", TORCH_BOX(&lifter::forward));
  m.impl("skeleton_scan_bwd", TORCH_BOX(&lifter::backward));
}
