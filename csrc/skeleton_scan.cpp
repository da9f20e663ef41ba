// skeleton_scan and skeleton_scan_bwd on the CPU: checks, workspaces and outputs around csrc/cpu/skeleton_scan.cpp.
#include "cpu/skeleton_scan.h"

#include <algorithm>

#include "cpu/layout.h"
#include "cpu/selective_scan.h"
#include "tensor.h"

namespace lifter {
namespace {

// Owns contiguous inputs and the workspace for as long as the kernel reads them.
struct Inputs {
  Inputs(const Tensor& x_, const Tensor& proj_, const Tensor& dt_weight_, const Tensor& dt_bias_, const Tensor& A_,
         const Tensor& D_, const Tensor& gather_, std::vector<int64_t> channel_groups_, std::vector<int64_t> walks_)
      : x(as_contiguous(x_)), proj(as_contiguous(proj_)), dt_weight(as_contiguous(dt_weight_)), dt_bias(as_contiguous(dt_bias_)), A(as_contiguous(A_)),
        D(as_contiguous(D_)), gather(as_contiguous(gather_)), channel_groups(std::move(channel_groups_)), walks(std::move(walks_)) {
    scan.batch = x.size(0), scan.frames = x.size(1), scan.joints = x.size(2), scan.channels = x.size(3);
    scan.directions = A.size(0), scan.states = A.size(2), scan.rank = dt_weight.size(2);
    scan.groups = gather.size(1), scan.terms = gather.size(2);
    scan.bfloat16 = is_bfloat16("skeleton_scan", x);
    scan.x = x.data_ptr(), scan.proj = proj.data_ptr();
    scan.dt_weight = data<float>(dt_weight), scan.dt_bias = data<float>(dt_bias);
    scan.A = data<float>(A), scan.D = data<float>(D), scan.gather = data<int32_t>(gather);
    scan.group_sizes = channel_groups.data(), scan.walks = walks.data();
    for (int64_t i = 0; i < gather.numel(); ++i)
      STD_TORCH_CHECK(scan.gather[i] < scan.joints, "skeleton_scan: gather names joint ", scan.gather[i],
                      ", expected less than ", scan.joints);
    rows = empty(A, {scan.batch, scan.directions, scan.frames * scan.joints, scan.rank + 2 * scan.states},
                 ScalarType::Float);
    scan.rows = output<float>(rows);
    tokens = empty(A, {scan.directions, 1 + scan.groups * scan.terms, scan.frames * scan.joints}, ScalarType::Int);
    scan.tokens = output<int32_t>(tokens);
    STD_TORCH_CHECK(scan.frames * scan.joints < INT32_MAX / kMaxLanes, "skeleton_scan: a clip of ", scan.frames, " frames and ",
                    scan.joints, " joints is too long");
  }

  Tensor x, proj, dt_weight, dt_bias, A, D, gather;
  std::vector<int64_t> channel_groups, walks;
  Tensor rows, tokens;
  SkeletonScan scan{};
};

std::tuple<Tensor, Tensor> forward(const Tensor& x, const Tensor& proj, const Tensor& dt_weight, const Tensor& dt_bias,
                                   const Tensor& A, const Tensor& D, const Tensor& gather,
                                   std::vector<int64_t> channel_groups, std::vector<int64_t> directions,
                                   bool save_states) {
  const Inputs in(x, proj, dt_weight, dt_bias, A, D, gather, std::move(channel_groups), std::move(directions));
  const SkeletonScan& s = in.scan;
  const Tensor out = empty(x, {s.batch, s.frames, s.joints, s.channels}, x.scalar_type());
  const int64_t chunks = save_states ? (s.frames * s.joints + kChunk - 1) / kChunk : 0;
  const Tensor states = empty(x, {s.batch, s.directions, chunks, s.states, s.channels}, ScalarType::Float);
  LIFTER_CALL(skeleton_scan_forward, s, out.data_ptr(), output_or_null<float>(states));
  return {out, states};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& dout, const Tensor& x, const Tensor& proj, const Tensor& dt_weight, const Tensor& dt_bias,
    const Tensor& A, const Tensor& D, const Tensor& gather, std::vector<int64_t> channel_groups,
    std::vector<int64_t> directions, const Tensor& states) {
  const Inputs in(x, proj, dt_weight, dt_bias, A, D, gather, std::move(channel_groups), std::move(directions));
  const SkeletonScan& s = in.scan;
  const Tensor dout_p = as_contiguous(dout), states_p = as_contiguous(states);
  SkeletonScanGradient g{};
  g.dout = dout_p.data_ptr(), g.states = data<float>(states_p);
  // Chosen by shape alone, so that the sums never depend on the number of threads; few, since each split has its own
  // copy of the gradients of dt, B and C, which are as large as the map.
  int64_t blocks = 0;
  LIFTER_CALL(skeleton_scan_blocks, s, &blocks);
  g.splits = std::clamp<int64_t>(16 / std::max<int64_t>(1, s.batch), 1, std::min<int64_t>(4, blocks));

  const int64_t length = s.frames * s.joints, width = s.rank + 2 * s.states;
  const auto partial = [&](int64_t last) {
    return empty(x, {s.batch, s.directions, s.channels, last}, ScalarType::Float);
  };
  const Tensor dx = empty(x, {s.batch, s.frames, s.joints, s.channels}, x.scalar_type());
  const Tensor dproj = empty(x, {s.batch, s.frames, s.joints, s.groups, s.directions, width}, x.scalar_type());
  const Tensor ddt_weight = partial(s.rank), ddt_bias = partial(1), dA = partial(s.states), dD = partial(1);
  const Tensor drows = empty(x, {g.splits, s.batch, s.directions, length, width}, ScalarType::Float);
  g.dx = dx.data_ptr(), g.dproj = dproj.data_ptr(), g.drows = output<float>(drows);
  g.ddt_weight = output<float>(ddt_weight), g.ddt_bias = output<float>(ddt_bias);
  g.dA = output<float>(dA), g.dD = output<float>(dD);
  LIFTER_CALL(skeleton_scan_backward, s, g);

  const auto sum = [&](const Tensor& partial_sums, std::initializer_list<int64_t> shape) {
    const Tensor out = empty(x, shape, ScalarType::Float);
    LIFTER_CALL(sum_partials, data<float>(partial_sums), s.batch, out.numel(), output<float>(out));
    return out;
  };
  return {dx,
          dproj,
          sum(ddt_weight, {s.directions, s.channels, s.rank}),
          sum(ddt_bias, {s.directions, s.channels}),
          sum(dA, {s.directions, s.channels, s.states}),
          sum(dD, {s.directions, s.channels})};
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) {
  m.impl("skeleton_scan", TORCH_BOX(&lifter::forward));
  m.impl("skeleton_scan_bwd", TORCH_BOX(&lifter::backward));
}
