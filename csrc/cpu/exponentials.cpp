// The yardstick of the scan: `count` exponentials of delta A, as its inner loop evaluates them, and nothing else.
#include "exponentials.h"

#include "../parallel.h"
#include "simd.h"

namespace lifter::LIFTER_CAPABILITY {

void exponentials(int64_t count) {
  constexpr int64_t kTask = 1 << 14, kStates = 16;
  parallel_for((count + kTask - 1) / kTask, [](int64_t) {
    vfloat a[kStates], sums[kStates] = {};
    for (int n = 0; n < kStates; ++n) a[n] = splat(-0.1f * (n + 1));
    vfloat delta = splat(0.5f);
    for (int64_t step = 0; step < kTask / kLanes / kStates; ++step) {
      asm volatile("" : "+x"(delta));  // a new time step, as far as the compiler knows
#pragma GCC unroll 16
      for (int n = 0; n < kStates; ++n) sums[n] += exp_small(delta * a[n]);
    }
    for (int n = 0; n < kStates; ++n) asm volatile("" : : "x"(sums[n]));
  });
}

}  // namespace lifter::LIFTER_CAPABILITY
