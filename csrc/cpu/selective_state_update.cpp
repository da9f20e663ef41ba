#include "selective_state_update.h"

#include <algorithm>

#include "../parallel.h"
#include "simd.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

// Lanes are states: one step has no time axis to hide the transposition of the state behind.
template <class T, bool kConstant>
void update_channels(const SelectiveStateUpdate& s, int64_t b, int64_t first, int64_t last) {
  const int64_t width = s.dim / s.heads;
  vfloat dt = {}, decay = {};
  for (int64_t d = first; d < last; ++d) {
    const int64_t i = b * s.dim + d, head = d / width, group = (b * s.groups + d / (s.dim / s.groups)) * s.states;
    const float* A = s.A + head * s.states;
    if (d == first || d % width == 0) {
      dt = splat(load1(static_cast<const T*>(s.dt) + b * s.heads + head) + (s.dt_bias ? s.dt_bias[head] : 0.0f));
      dt = s.softplus ? softplus(dt) : dt;
      if (kConstant) decay = exp_any(dt * splat(*A));
    }
    const float x = load1(static_cast<const T*>(s.x) + i);
    const T *B = static_cast<const T*>(s.B) + group, *C = static_cast<const T*>(s.C) + group;
    vfloat y = {};
    for (int64_t n = 0; n < s.states; n += kLanes) {
      const int64_t lanes = s.states - n;
      float* h = s.state + i * s.states + n;
      if (!kConstant) decay = exp_any(dt * load_some(A + n, lanes));
      const vfloat state = decay * load_some(h, lanes) + dt * x * load_some(B + n, lanes);
      store_some(h, state, lanes);
      y += state * load_some(C + n, lanes);
    }
    float out = sum_lanes(y) + (s.D ? s.D[d] * x : 0.0f);
    if (s.z) {
      const vfloat z = splat(load1(static_cast<const T*>(s.z) + i));
      out *= (z * sigmoid(z))[0];
    }
    store1(static_cast<T*>(s.out) + i, out);
  }
}

template <class T>
void update_channels(const SelectiveStateUpdate& s, int64_t b, int64_t first, int64_t last) {
  s.constant ? update_channels<T, true>(s, b, first, last) : update_channels<T, false>(s, b, first, last);
}

}  // namespace

void selective_state_update(const SelectiveStateUpdate& s) {
  constexpr int64_t kChannels = 64;  // a task: fewer would cost more in waking threads than in work
  const int64_t tasks = (s.dim + kChannels - 1) / kChannels;
  parallel_for(s.batch * tasks, [&](int64_t task) {
    const FlushDenormals flush;
    const int64_t b = task / tasks, first = task % tasks * kChannels, last = std::min(first + kChannels, s.dim);
    s.bfloat16 ? update_channels<bfloat16>(s, b, first, last) : update_channels<float>(s, b, first, last);
  });
}

}  // namespace lifter::LIFTER_CAPABILITY
