// The tables of xPos that the kernels turn queries and keys by.
#pragma once
#include <cstdint>

#include "glue.h"

namespace lifter {

// Elements of a row of the tables.
inline int64_t rotary_width(int64_t keys) { return (keys + 15) / 16 * 16; }

// (4, frames + 1, rotary_width(keys)): cosines and sines times the size for q, then for k, of a chunk's frames and the one
// after it. The rotation of one frame to the power n, in double precision; s^(n / 512) for q, its inverse for k.
Tensor rotary_tables(const Tensor& scale, int64_t keys, int64_t frames);

}  // namespace lifter
