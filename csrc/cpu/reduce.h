// Sums whose order follows from shapes alone: they never depend on the number of threads.
#pragma once
#include "simd.h"

namespace lifter::LIFTER_CAPABILITY {

// out[i] = the sum of the lanes of row i.
LIFTER_INLINE void sum_over_lanes(const float* rows, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    vfloat square[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) square[j] = load(rows + (i + j) * kLanes);
    store(out + i, sum_rows(square));
  }
  for (; i < count; ++i) out[i] = sum_lanes(load(rows + i * kLanes));
}

// The first `count` lanes of the sum over p of partial[p * stride], in order.
LIFTER_INLINE vfloat sum_parts(const float* partial, int64_t parts, int64_t stride, int64_t count) {
  vfloat sum = {};
  for (int64_t p = 0; p < parts; ++p) sum += load_some(partial + p * stride, count);
  return sum;
}

// out[i] = the sum over p of partial[p * stride + i], for i < size.
LIFTER_INLINE void sum_parts(const float* partial, int64_t parts, int64_t stride, int64_t size, float* out) {
  for (int64_t i = 0; i < size; i += kLanes) store_some(out + i, sum_parts(partial + i, parts, stride, size - i), size - i);
}

}  // namespace lifter::LIFTER_CAPABILITY
