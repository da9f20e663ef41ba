// Moves [step][lane] tiles of float between a kernel's scratch and a strided tensor of float or bfloat16.
#pragma once
#include "simd.h"

namespace lifter::LIFTER_CAPABILITY {

constexpr int64_t kPrefetchRows = 24;  // rows: a map's rows lie too far apart for the hardware to fetch the next ones itself

// tile[step][lane] = p[lane * lane_stride + step * step_stride]; lanes beyond `lanes` are zero.
template <class T>
static void load_tile(const T* p, int64_t lane_stride, int64_t step_stride, int64_t lanes, int64_t steps, float* tile) {
  if (lane_stride == 1) {
    for (int64_t l = 0; l < steps; ++l) {
      __builtin_prefetch(p + (l + kPrefetchRows) * step_stride, 0);
      store(tile + l * kLanes, load_some(p + l * step_stride, lanes));
    }
    return;
  }
  int64_t l = 0;
  if (step_stride == 1) {
    for (; l + kLanes <= steps; l += kLanes) {
      vfloat rows[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) rows[i] = i < lanes ? load(p + i * lane_stride + l) : vfloat{};
      transpose(rows);
      for (int64_t i = 0; i < kLanes; ++i) store(tile + (l + i) * kLanes, rows[i]);
    }
  }
  for (; l < steps; ++l)
    for (int64_t i = 0; i < kLanes; ++i)
      tile[l * kLanes + i] = i < lanes ? load1(p + i * lane_stride + l * step_stride) : 0.0f;
}

template <class T>
static void store_tile(const float* tile, int64_t lane_stride, int64_t step_stride, int64_t lanes, int64_t steps, T* p) {
  if (lane_stride == 1) {
    for (int64_t l = 0; l < steps; ++l) {
      __builtin_prefetch(p + (l + kPrefetchRows) * step_stride, 1);
      store_some(p + l * step_stride, load(tile + l * kLanes), lanes);
    }
    return;
  }
  int64_t l = 0;
  if (step_stride == 1) {
    for (; l + kLanes <= steps; l += kLanes) {
      vfloat rows[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) rows[i] = load(tile + (l + i) * kLanes);
      transpose(rows);
      for (int64_t i = 0; i < lanes && i < kLanes; ++i) store(p + i * lane_stride + l, rows[i]);
    }
  }
  for (; l < steps; ++l)
    for (int64_t i = 0; i < lanes && i < kLanes; ++i) store1(p + i * lane_stride + l * step_stride, tile[l * kLanes + i]);
}

}  // namespace lifter::LIFTER_CAPABILITY
