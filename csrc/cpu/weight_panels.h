// Weights of linear layers in panels, as kernels/_panels.py packs them: so many columns lie together, one row after another.
#pragma once
#include <cstdint>

namespace lifter::LIFTER_CAPABILITY {

constexpr int64_t kPanelColumns = 64;        // columns of a panel, and
constexpr int64_t kColumnMultiple = 16;  // what the number of all is a multiple of, whatever machine packed them

constexpr int64_t panel_columns(int64_t n) { return (n + kColumnMultiple - 1) / kColumnMultiple * kColumnMultiple; }

}  // namespace lifter::LIFTER_CAPABILITY
