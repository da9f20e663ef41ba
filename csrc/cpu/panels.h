// Weights of linear layers in panels, as kernels/_panels.py packs them: so many columns lie together, one row after another.
#pragma once
#include <cstdint>

namespace lifter::LIFTER_CAPABILITY {

constexpr int64_t kPanel = 64;        // columns of a panel, and
constexpr int64_t kPackedLanes = 16;  // what the number of all is a multiple of, whatever machine packed them

constexpr int64_t wide(int64_t n) { return (n + kPackedLanes - 1) / kPackedLanes * kPackedLanes; }

}  // namespace lifter::LIFTER_CAPABILITY
