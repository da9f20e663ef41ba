#pragma once
#include "../capability.h"

namespace lifter {

struct SkeletonScan {
  int64_t batch, frames, joints, channels, directions, groups, terms, states, rank;
  bool bfloat16;              // else float32, of x, proj and out
  const void* x;              // (batch, frames, joints, channels), contiguous
  const void* proj;           // (batch, frames, joints, groups, directions, rank + 2 * states), contiguous
  const float *dt_weight, *dt_bias, *A, *D;  // (directions, channels, ...), contiguous
  const int32_t* gather;      // (directions, groups, terms, joints), entries below joints; negative adds nothing
  const int64_t* group_sizes;
  const int64_t* walks;       // per direction: bit 0 joint-major, bit 1 reversed
  float* rows;                // workspace (batch, directions, frames * joints, rank + 2 * states), in scan order
  int32_t* tokens;            // workspace (directions, 1 + groups * terms, frames * joints), filled by `plan_walks`
};

struct SkeletonScanGradient {
  const void* dout;       // (batch, frames, joints, channels), contiguous
  const float* states;    // (batch, directions, chunks, states, channels)
  int64_t splits;         // shares of the channel blocks, each with partial sums of its own
  void *dx, *dproj;
  float *ddt_weight, *ddt_bias, *dA, *dD;  // partial sums, (batch, directions, channels, ...)
  float* drows;           // partial sums, (splits, batch, directions, frames * joints, rank + 2 * states)
};

}  // namespace lifter

// states: (batch, directions, chunks, states, channels), the state before every chunk, or null.
LIFTER_KERNEL(void skeleton_scan_forward(const SkeletonScan&, void* out, float* states))
LIFTER_KERNEL(void skeleton_scan_backward(const SkeletonScan&, const SkeletonScanGradient&))
// The blocks that the channels are cut into, the most that a split can use.
LIFTER_KERNEL(void skeleton_scan_blocks(const SkeletonScan&, int64_t* count))
