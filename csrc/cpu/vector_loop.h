// The channels of a row, in blocks of as many vectors as registers can hold.
#pragma once
#include "simd.h"

namespace lifter::LIFTER_CAPABILITY {

template <int V>
struct Vectors {
  static constexpr int count = V;
};

// Calls f(Vectors<V>, c, lanes) for channels [begin, end): V whole vectors (lanes is kLanes), or at last a part of one.
template <class F>
LIFTER_INLINE void vector_loop(int64_t begin, int64_t end, const F& f) {
  int64_t c = begin;
  for (; c + 8 * kLanes <= end; c += 8 * kLanes) f(Vectors<8>(), c, kLanes);
  for (; c + 4 * kLanes <= end; c += 4 * kLanes) f(Vectors<4>(), c, kLanes);
  for (; c + kLanes <= end; c += kLanes) f(Vectors<1>(), c, kLanes);
  if (c < end) f(Vectors<1>(), c, end - c);
}

}  // namespace lifter::LIFTER_CAPABILITY
