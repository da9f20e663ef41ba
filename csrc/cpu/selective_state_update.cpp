#include "selective_state_update.h"

#include "../parallel.h"
#include "simd.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

// Lanes are states: one step has no time axis to hide the transposition of the state behind.
template <class T>
void update_channel(const SelectiveStateUpdate& s, int64_t b, int64_t d) {
  const int64_t i = b * s.dim + d, group = (b * s.groups + d / (s.dim / s.groups)) * s.states;
  const float x = load1(static_cast<const T*>(s.x) + i);
  const vfloat raw = splat(load1(static_cast<const T*>(s.dt) + i) + (s.dt_bias ? s.dt_bias[d] : 0.0f));
  const vfloat dt = s.softplus ? softplus(raw) : raw;
  const T *B = static_cast<const T*>(s.B) + group, *C = static_cast<const T*>(s.C) + group;
  vfloat y = {};
  for (int64_t n = 0; n < s.states; n += kLanes) {
    const int64_t lanes = s.states - n;
    float* h = s.state + i * s.states + n;
    const vfloat decay = exp_any(dt * load_some(s.A + d * s.states + n, lanes));
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

}  // namespace

void selective_state_update(const SelectiveStateUpdate& s) {
  constexpr int64_t kChannels = 64;  // a task: fewer would cost more in waking threads than in work
  const int64_t tasks = (s.dim + kChannels - 1) / kChannels;
  parallel_for(s.batch * tasks, [&](int64_t task) {
    const FlushDenormals flush;
    const int64_t b = task / tasks, first = task % tasks * kChannels;
    for (int64_t d = first; d < first + kChannels && d < s.dim; ++d)
      s.bfloat16 ? update_channel<bfloat16>(s, b, d) : update_channel<float>(s, b, d);
  });
}

}  // namespace lifter::LIFTER_CAPABILITY
