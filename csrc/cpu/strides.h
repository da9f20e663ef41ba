#pragma once
#include <cstdint>

namespace lifter {

// Elements from a (clip, row, token, head) of a map to the next. Rows are walked by themselves along their tokens: of a
// pose clip the frames along their joints, or the joints along their frames. The channels of a head are contiguous.
struct Strides {
  int64_t batch, row, token, head;
};

}  // namespace lifter
