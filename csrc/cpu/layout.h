// Sizes and dtypes that the kernels and their callers agree on, for every capability.
#pragma once
#include <cstdint>

namespace lifter {

// Elements from a (clip, row, token, head) of a map to the next. Rows are walked by themselves along their tokens: of a
// pose clip the frames along their joints, or the joints along their frames. The channels of a head are contiguous.
struct Strides {
  int64_t batch, row, token, head;
};

// The elements of a kernel's maps. With pairs, bfloat16 numbers are multiplied as such, two at a time.
enum class Precision { float32, bfloat16, bfloat16_pairs };

constexpr int64_t kChunk = 64;     // steps between two saved states; CHUNK in kernels/selective_scan.py is the same
constexpr int64_t kMaxLanes = 16;  // channels per block are at most this, whatever the capability
constexpr int64_t kWordBits = 32;  // of a word of a bitmask

}  // namespace lifter
