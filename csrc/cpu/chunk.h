// What the kernels and their callers must agree on, whatever the capability.
#pragma once
#include <cstdint>

namespace lifter {

constexpr int64_t kChunk = 64;    // steps between two saved states; CHUNK in kernels/selective_scan.py is the same
constexpr int64_t kMaxLanes = 16;  // channels per block are at most this, whatever the capability

}  // namespace lifter
