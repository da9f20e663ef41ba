// A filter of 2 to 4 taps moves more bytes than it computes: every element is read once from memory, and once per tap from
// the first cache. Vectors are steps where steps are contiguous, else channels. Taps go by distance: tap k meets step l - k.
#include "causal_conv1d.h"

#include "../parallel.h"
#include "simd.h"
#include "tile.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

constexpr int64_t kTask = 1 << 14;       // elements: fewer would cost more in waking threads than in work
constexpr int64_t kSteps = 512;          // of a row of steps whose gradients are made at once
constexpr int64_t kChannels = 512;       // of rows of channels that one task does: its taps stay in the first cache
constexpr int64_t kBlock = 8;            // rows of channels that are done at once

LIFTER_INLINE vfloat silu(vfloat v) { return v * sigmoid(v); }
LIFTER_INLINE vfloat silu_slope(vfloat v) {
  const vfloat e = sigmoid(v);
  return e * (1.0f + v * (1.0f - e));
}

LIFTER_INLINE vfloat where(vfloat v, vuint mask) { return (vfloat)((vuint)v & mask); }

template <int W>
struct Taps {
  vfloat tap[W], bias;

  // x[k]: what tap k meets.
  LIFTER_MEMBER vfloat sum(const vfloat* x) const {
    vfloat v = bias;
    for (int k = 0; k < W; ++k) v += tap[k] * x[k];
    return v;
  }
};

// ---- rows of steps ---------------------------------------------------------------------------------------------------

template <class T, int W>
class StepRow {
 public:
  StepRow(const CausalConv1d& s, int64_t n) : s_(s), n_(n), b_(n / s.dim), d_(n % s.dim) {
    for (int k = 0; k < W; ++k) taps_.tap[k] = splat(s.weight[(W - 1 - k) * s.dim + d_]);
    taps_.bias = splat(s.bias ? s.bias[d_] : 0.0f);
    x_ = at(s.x);
    if (s.initial_states)
      memcpy(head_, static_cast<const T*>(s.initial_states) + n * (W - 1), (W - 1) * sizeof(T));
    else
      memset(head_, 0, (W - 1) * sizeof(T));
    memcpy(head_ + W - 1, x_, smaller(s.length, kLanes) * sizeof(T));
    if (s.seen) seen_ = s.seen + b_ * W * s.seen_stride;
  }

  LIFTER_MEMBER void forward(T* out) const {
    for (int64_t l = 0; l < s_.length; l += kLanes) {
      vfloat x[W];
      load_taps(l, x);
      const vfloat v = taps_.sum(x);
      store_some(out + n_ * s_.length + l, see(s_.silu ? silu(v) : v, 0, l), s_.length - l);
    }
  }

  // `slopes`: kSteps + kLanes + W floats of scratch, the gradients of the sums before the activation.
  LIFTER_MEMBER void backward(const CausalConv1dGradient& g, float* slopes) const {
    const T* dout = at(g.dout);
    T* dx = static_cast<T*>(g.dx) + n_ * s_.length;
    vfloat dtap[W] = {}, dbias = {};
    float next[W - 1] = {};  // slopes of the steps after those at hand
    for (int64_t first = (s_.length - 1) / kSteps * kSteps; first >= 0; first -= kSteps) {
      const int64_t end = smaller(first + kSteps, s_.length);
      for (int64_t l = first; l < end; l += kLanes) {
        vfloat x[W];
        load_taps(l, x);
        vfloat slope = see(load_some(dout + l, s_.length - l), 0, l);
        if (s_.silu) slope *= silu_slope(taps_.sum(x));
        store(slopes + l - first, slope);
        for (int k = 0; k < W; ++k) dtap[k] += slope * x[k];
        dbias += slope;
      }
      memcpy(slopes + end - first, next, sizeof next);
      for (int64_t l = first; l < end; l += kLanes) {
        vfloat sum = {};
        for (int k = 0; k < W; ++k) sum += taps_.tap[k] * see(load(slopes + l - first + k), k, l + k);
        store_some(dx + l, sum, s_.length - l);
      }
      memcpy(next, slopes, sizeof next);
    }
    if (g.dinitial_states) {
      T* dinitial = static_cast<T*>(g.dinitial_states) + n_ * (W - 1);
      for (int i = 0; i < W - 1; ++i) {  // i is W - 1 - i steps before the first
        float sum = 0;
        for (int k = W - 1 - i; k < W; ++k) sum += taps_.tap[k][0] * next[k - (W - 1 - i)];
        store1(dinitial + i, sum);
      }
    }
    float* partial = g.partial + b_ * (W + 1) * s_.dim + d_;
    for (int k = 0; k < W; ++k) partial[(W - 1 - k) * s_.dim] = sum_lanes(dtap[k]);
    partial[W * s_.dim] = sum_lanes(dbias);
  }

 private:
  const T* at(const Rows& rows) const { return static_cast<const T*>(rows.data) + b_ * rows.batch + d_ * rows.row; }

  LIFTER_MEMBER vfloat see(vfloat v, int k, int64_t l) const {
    return seen_ ? where(v, load(seen_ + k * s_.seen_stride + l)) : v;
  }

  LIFTER_MEMBER void load_taps(int64_t l, vfloat* x) const {
    const T* p = l ? x_ + l : head_ + W - 1;
    for (int k = 0; k < W; ++k) x[k] = see(load_some(p - k, s_.length - l), k, l);
  }

  const CausalConv1d& s_;
  const int64_t n_, b_, d_;
  Taps<W> taps_;
  const T* x_;
  T head_[W - 1 + kLanes];  // the first vector of steps, with what is before it
  const uint32_t* seen_ = nullptr;
};

template <class F>
void each_step_row(const CausalConv1d& s, const F& f) {
  const int64_t rows = s.batch * s.dim, share = s.length < kTask ? kTask / s.length : 1;
  parallel_for((rows + share - 1) / share, [&](int64_t task) {
    const FlushDenormals flush;
    f(task * share, smaller(rows, (task + 1) * share));
  });
}

// ---- rows of channels ------------------------------------------------------------------------------------------------

// kChannels or fewer channels of a sequence; `count` of them are there.
template <class T, int W>
class ChannelRows {
 public:
  static constexpr int64_t kFloats = (W - 1) * kChannels;

  ChannelRows(const CausalConv1d& s, int64_t b, int64_t channel, Scratch& scratch)
      : s_(s), b_(b), channel_(channel), count_(smaller(kChannels, s.dim - channel)),
        past_(reinterpret_cast<T*>(scratch.take(kFloats))) {
    if (s.seen) seen_ = s.seen + b * W * s.seen_stride;
    const int64_t state = (b * s.dim + channel) * (W - 1);
    for (int64_t c = 0; c < count_; c += kLanes) {
      alignas(64) float tile[(W - 1) * kLanes] = {};
      if (s.initial_states)
        load_tile(static_cast<const T*>(s.initial_states) + state + c * (W - 1), W - 1, 1, lanes(c), W - 1, tile);
      for (int i = 0; i < W - 1; ++i) store_some(past_ + i * kChannels + c, load(tile + i * kLanes), lanes(c));
    }
  }

  LIFTER_MEMBER void forward(int64_t first, int64_t count, T* out) const {
    const T* rows[kBlock + W - 1];
    point(first, count, rows);
    out += (b_ * s_.length + first) * s_.dim + channel_;
    for (int64_t c = 0; c < count_; c += kLanes) {
      const Taps<W> taps = load_filter(c);
      vfloat x[W];
      for (int k = 1; k < W; ++k) x[k - 1] = load_some(rows[W - 1 - k] + c, lanes(c));
      for (int64_t r = 0; r < count; ++r) {
        advance(x, load_some(rows[W - 1 + r] + c, lanes(c)));
        const vfloat v = sum(taps, x, first + r);
        store_some(out + r * s_.dim + c, see(s_.silu ? silu(v) : v, 0, first + r), lanes(c));
      }
    }
  }

  // Adds to `sums` [W + 1][kChannels], and gives dx; `next` [W - 1][kChannels], the slopes of the steps after these, becomes
  // that of the steps from `first` on. Without sums only the last.
  LIFTER_MEMBER void backward(const CausalConv1dGradient& g, int64_t first, int64_t count, float* sums, float* next) const {
    const T* rows[kBlock + W - 1];
    point(first, count, rows);
    const T* dout = static_cast<const T*>(g.dout.data) + b_ * g.dout.batch + first * g.dout.row + channel_;
    T* dx = static_cast<T*>(g.dx) + (b_ * s_.length + first) * s_.dim + channel_;
    for (int64_t c = 0; c < count_; c += kLanes) {
      const Taps<W> taps = load_filter(c);
      vfloat x[W], slopes[kBlock + W - 1], dtap[W] = {}, dbias = {};
      for (int k = 1; k < W; ++k) x[k - 1] = load_some(rows[W - 1 - k] + c, lanes(c));
      for (int k = 0; k < W - 1; ++k) slopes[count + k] = load(next + k * kChannels + c);
      for (int64_t r = 0; r < count; ++r) {
        advance(x, load_some(rows[W - 1 + r] + c, lanes(c)));
        vfloat slope = see(load_some(dout + r * g.dout.row + c, lanes(c)), 0, first + r);
        if (s_.silu) slope *= silu_slope(sum(taps, x, first + r));
        slopes[r] = slope;
        for (int k = 0; k < W; ++k) dtap[k] += slope * see(x[k], k, first + r);
        dbias += slope;
      }
      for (int k = 0; k < W - 1; ++k) store(next + k * kChannels + c, slopes[k]);
      if (!sums) continue;
      for (int64_t r = 0; r < count; ++r) {
        vfloat sum = {};
        for (int k = 0; k < W; ++k) sum += taps.tap[k] * see(slopes[r + k], k, first + r + k);
        store_some(dx + r * s_.dim + c, sum, lanes(c));
      }
      for (int k = 0; k < W; ++k) add(sums + (W - 1 - k) * kChannels + c, dtap[k]);
      add(sums + W * kChannels + c, dbias);
    }
  }

  // From the slopes of the first steps.
  LIFTER_MEMBER void store_dinitial(const CausalConv1dGradient& g, const float* next) const {
    for (int64_t c = 0; c < count_; c += kLanes) {
      const Taps<W> taps = load_filter(c);
      alignas(64) float tile[(W - 1) * kLanes];
      for (int i = 0; i < W - 1; ++i) {  // i is W - 1 - i steps before the first
        vfloat sum = {};
        for (int k = W - 1 - i; k < W; ++k) sum += taps.tap[k] * load(next + (k - (W - 1 - i)) * kChannels + c);
        store(tile + i * kLanes, sum);
      }
      T* dinitial = static_cast<T*>(g.dinitial_states) + (b_ * s_.dim + channel_ + c) * (W - 1);
      store_tile(tile, W - 1, 1, lanes(c), W - 1, dinitial);
    }
  }

  void store_sums(const float* sums, float* partial) const {
    for (int j = 0; j <= W; ++j) memcpy(partial + j * s_.dim + channel_, sums + j * kChannels, count_ * sizeof(float));
  }

 private:
  LIFTER_MEMBER int64_t lanes(int64_t c) const { return count_ - c; }

  // rows[i]: step first - (W - 1) + i.
  void point(int64_t first, int64_t count, const T** rows) const {
    const T* x = static_cast<const T*>(s_.x.data) + b_ * s_.x.batch + channel_;
    for (int64_t i = 0; i < count + W - 1; ++i) {
      const int64_t l = first - (W - 1) + i;
      rows[i] = l < 0 ? past_ + (l + W - 1) * kChannels : x + l * s_.x.row;
    }
  }

  LIFTER_MEMBER Taps<W> load_filter(int64_t c) const {
    Taps<W> taps;
    for (int k = 0; k < W; ++k) taps.tap[k] = load_some(s_.weight + (W - 1 - k) * s_.dim + channel_ + c, lanes(c));
    taps.bias = s_.bias ? load_some(s_.bias + channel_ + c, lanes(c)) : vfloat{};
    return taps;
  }

  LIFTER_MEMBER static void advance(vfloat* x, vfloat step) {
    for (int k = W - 1; k > 0; --k) x[k] = x[k - 1];
    x[0] = step;
  }

  LIFTER_MEMBER vfloat see(vfloat v, int k, int64_t l) const {
    return seen_ ? where(v, vuint{} + seen_[k * s_.seen_stride + l]) : v;
  }

  LIFTER_MEMBER vfloat sum(const Taps<W>& taps, const vfloat* x, int64_t l) const {
    vfloat seen[W];
    for (int k = 0; k < W; ++k) seen[k] = see(x[k], k, l);
    return taps.sum(seen);
  }

  LIFTER_MEMBER static void add(float* p, vfloat v) { store(p, load(p) + v); }

  const CausalConv1d& s_;
  const int64_t b_, channel_, count_;
  T* past_;  // [W - 1][kChannels], the steps before the first
  const uint32_t* seen_ = nullptr;
};

// Calls f(batch, segment of `steps` steps, first channel).
template <class F>
void each_segment(const CausalConv1d& s, int64_t steps, const F& f) {
  const int64_t segments = (s.length + steps - 1) / steps, blocks = (s.dim + kChannels - 1) / kChannels;
  parallel_for(s.batch * segments * blocks, [&](int64_t task) {
    const FlushDenormals flush;
    f(task / blocks / segments, task / blocks % segments, task % blocks * kChannels);
  });
}

// ---- both ------------------------------------------------------------------------------------------------------------

template <class T, int W>
void forward(const CausalConv1d& s, T* out) {
  if (!s.channels_last) {
    return each_step_row(s, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) StepRow<T, W>(s, n).forward(out);
    });
  }
  constexpr int64_t kRows = kTask / kChannels;
  each_segment(s, kRows, [&](int64_t b, int64_t segment, int64_t channel) {
    Scratch scratch(ChannelRows<T, W>::kFloats);
    const ChannelRows<T, W> rows(s, b, channel, scratch);
    const int64_t end = smaller((segment + 1) * kRows, s.length);
    for (int64_t l = segment * kRows; l < end; l += kBlock) rows.forward(l, smaller(kBlock, end - l), out);
  });
}

// dweight and dbias: the parts added in order.
template <int W>
void add_parts(const CausalConv1d& s, const CausalConv1dGradient& g) {
  constexpr int64_t kShare = 256;  // channels
  parallel_for((s.dim + kShare - 1) / kShare, [&](int64_t task) {
    for (int64_t d = task * kShare; d < smaller((task + 1) * kShare, s.dim); d += kLanes) {
      for (int j = 0; j <= W; ++j) {
        vfloat sum = {};
        for (int64_t part = 0; part < g.parts; ++part)
          sum += load_some(g.partial + (part * (W + 1) + j) * s.dim + d, s.dim - d);
        if (j == W && g.dbias) store_some(g.dbias + d, sum, s.dim - d);
        for (int64_t i = 0; j < W && i < smaller(kLanes, s.dim - d); ++i) g.dweight[(d + i) * W + j] = sum[i];
      }
    }
  });
}

template <class T, int W>
void backward(const CausalConv1d& s, const CausalConv1dGradient& g) {
  if (!s.channels_last) {
    each_step_row(s, [&](int64_t begin, int64_t end) {
      Scratch scratch(kSteps + 2 * kLanes);
      float* slopes = scratch.take(kSteps + 2 * kLanes);
      for (int64_t n = begin; n < end; ++n) StepRow<T, W>(s, n).backward(g, slopes);
    });
    return add_parts<W>(s, g);
  }
  each_segment(s, kSegment, [&](int64_t b, int64_t segment, int64_t channel) {
    constexpr int64_t kSums = (W + 1) * kChannels, kNext = (W - 1) * kChannels;
    Scratch scratch(ChannelRows<T, W>::kFloats + kSums + kNext);
    const ChannelRows<T, W> rows(s, b, channel, scratch);
    float *sums = scratch.take(kSums), *next = scratch.take(kNext);
    memset(sums, 0, kSums * sizeof(float));
    memset(next, 0, kNext * sizeof(float));
    const int64_t begin = segment * kSegment, end = smaller(begin + kSegment, s.length);
    if (end < s.length) rows.backward(g, end, smaller(W - 1, s.length - end), nullptr, next);
    for (int64_t l = begin + (end - begin - 1) / kBlock * kBlock; l >= begin; l -= kBlock)
      rows.backward(g, l, smaller(kBlock, end - l), sums, next);
    if (begin == 0 && g.dinitial_states) rows.store_dinitial(g, next);
    rows.store_sums(sums, g.partial + (b * (g.parts / s.batch) + segment) * (W + 1) * s.dim);
  });
  add_parts<W>(s, g);
}

// ---- update ----------------------------------------------------------------------------------------------------------

int64_t modulo(int64_t a, int64_t n) { return (a % n + n) % n; }

// kLanes channels of a sequence as [step][lane] tiles.
template <class T, int W>
void update_channels(const CausalConv1dUpdate& s, int64_t b, int64_t d, float* states, float* steps) {
  const int64_t lanes = smaller(kLanes, s.dim - d);
  T* out = static_cast<T*>(s.out) + (b * s.dim + d) * s.length;
  const int64_t row = s.conv_state_indices ? s.conv_state_indices[b] : b;
  if (row < 0 || row >= s.state_rows) {  // padding
    memset(out, 0, lanes * s.length * sizeof(T));
    return;
  }
  T* state = static_cast<T*>(s.state) + row * s.state_batch + d * s.state_channel;
  const T* x = static_cast<const T*>(s.x) + b * s.x_batch + d * s.x_channel;
  float* added = steps + (W - 1) * kLanes;
  load_tile(state, s.state_channel, s.state_step, lanes, s.states, states);
  load_tile(x, s.x_channel, s.x_step, lanes, s.length, added);
  const int64_t start = s.cache_seqlens ? modulo(s.cache_seqlens[b], s.states) : 0;  // without a ring, of the oldest step
  for (int i = 0; i < W - 1; ++i)
    store(steps + i * kLanes, load(states + modulo(start - (W - 1) + i, s.states) * kLanes));
  const int64_t kept = smaller(s.length, s.states), dropped = s.length - kept;
  if (s.cache_seqlens) {
    for (int64_t l = dropped; l < s.length; ++l)
      store_tile(added + l * kLanes, s.state_channel, s.state_step, lanes, 1, state + (start + l) % s.states * s.state_step);
  } else {
    const int64_t old = s.states - kept;
    store_tile(states + kept * kLanes, s.state_channel, s.state_step, lanes, old, state);
    store_tile(added + dropped * kLanes, s.state_channel, s.state_step, lanes, kept, state + old * s.state_step);
  }
  Taps<W> taps;
  for (int k = 0; k < W; ++k) taps.tap[k] = load_some(s.weight + (W - 1 - k) * s.dim + d, lanes);
  taps.bias = s.bias ? load_some(s.bias + d, lanes) : vfloat{};
  for (int64_t l = 0; l < s.length; ++l) {
    vfloat window[W];
    for (int k = 0; k < W; ++k) window[k] = load(added + (l - k) * kLanes);
    const vfloat v = taps.sum(window);
    store(steps + l * kLanes, s.silu ? silu(v) : v);  // where no later window begins
  }
  store_tile(steps, s.length, 1, lanes, s.length, out);
}

template <class T, int W>
void update(const CausalConv1dUpdate& s) {
  constexpr int64_t kShare = 256;  // channels of a task
  const int64_t tasks = (s.dim + kShare - 1) / kShare;
  parallel_for(s.batch * tasks, [&](int64_t task) {
    const FlushDenormals flush;
    Scratch scratch((s.states + s.length + W - 1) * kLanes);
    float *states = scratch.take(s.states * kLanes), *steps = scratch.take((s.length + W - 1) * kLanes);
    const int64_t first = task % tasks * kShare;
    for (int64_t d = first; d < smaller(first + kShare, s.dim); d += kLanes)
      update_channels<T, W>(s, task / tasks, d, states, steps);
  });
}

template <int W>
struct Width {
  static constexpr int value = W;
};

// Calls f(Width<W>()) for the width at hand.
template <class F>
void with_width(int64_t width, const F& f) {
  if (width == 2) return f(Width<2>());
  if (width == 3) return f(Width<3>());
  f(Width<4>());
}

}  // namespace

void causal_conv1d_forward(const CausalConv1d& s, void* out) {
  with_width(s.width, [&](auto w) {
    s.bfloat16 ? forward<bfloat16, w.value>(s, static_cast<bfloat16*>(out))
               : forward<float, w.value>(s, static_cast<float*>(out));
  });
}

void causal_conv1d_backward(const CausalConv1d& s, const CausalConv1dGradient& g) {
  with_width(s.width, [&](auto w) { s.bfloat16 ? backward<bfloat16, w.value>(s, g) : backward<float, w.value>(s, g); });
}

void causal_conv1d_update(const CausalConv1dUpdate& s) {
  with_width(s.width, [&](auto w) { s.bfloat16 ? update<bfloat16, w.value>(s) : update<float, w.value>(s); });
}

}  // namespace lifter::LIFTER_CAPABILITY
