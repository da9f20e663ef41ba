// Loops over contiguous elements, vector by vector.
#pragma once
#include "simd.h"

namespace lifter::LIFTER_CAPABILITY {

// Calls f(i, lanes) for [begin, end): lanes is the constant kLanes where a vector is whole, at last what is left.
template <class F>
LIFTER_INLINE void by_vectors(int64_t begin, int64_t end, const F& f) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) f(i, kLanes);
  if (i < end) f(i, end - i);
}

template <int V>
struct Vectors {
  static constexpr int count = V;
};

// The same by as many vectors as registers can hold: calls f(Vectors<V>, i, lanes) for V whole vectors, at last for a part of
// one.
template <class F>
LIFTER_INLINE void vector_loop(int64_t begin, int64_t end, const F& f) {
  int64_t i = begin;
  for (; i + 8 * kLanes <= end; i += 8 * kLanes) f(Vectors<8>(), i, kLanes);
  for (; i + 4 * kLanes <= end; i += 4 * kLanes) f(Vectors<4>(), i, kLanes);
  by_vectors(i, end, [&](int64_t i, int64_t lanes) LIFTER_LAMBDA { f(Vectors<1>(), i, lanes); });
}

}  // namespace lifter::LIFTER_CAPABILITY
