// A filter of 2 to 4 taps moves more bytes than it computes: every element is read once from memory, and once per tap from
// the first cache. Vectors are steps where steps are contiguous, else channels. Taps go by distance: tap k meets step l - k.
#include "causal_conv1d.h"

#include "../parallel.h"
#include "arena.h"
#include "reduce.h"
#include "simd.h"
#include "tile_io.h"
#include "vector_loop.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

constexpr int64_t kTask = 1 << 14;       // elements: fewer would cost more in waking threads than in work
constexpr int64_t kSteps = 512;          // of a row of steps whose gradients are made at once
constexpr int64_t kChannels = 256;       // of rows of channels that one task does: its taps stay in the first cache
constexpr int64_t kBlock = 4;            // rows of channels that are done at once
constexpr int64_t kPrefetchRows = 8;     // pieces of rows are too short for the hardware to see a stream

// 1 / (1 + e^-v), which at +-87 is as good as where it ends. What it meets here is v, so that NaN stays NaN.
LIFTER_INLINE vfloat gate(vfloat v) {
  return reciprocal(1.0f + exp_small(vmin(splat(kSmallExponent), vmax(splat(-kSmallExponent), -v))));
}
LIFTER_INLINE vfloat silu(vfloat v) { return v * gate(v); }
LIFTER_INLINE vfloat silu_slope(vfloat v) {
  const vfloat e = gate(v);
  return e + v * (e - e * e);
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
    if (s.tap_mask) tap_mask_ = s.tap_mask + b_ * W * s.tap_mask_stride;
  }

  LIFTER_MEMBER void forward(T* out) const {
    out += n_ * s_.length;
    const bool activated = s_.silu;
    each_vector(0, s_.length, [&](const T* p, int64_t l, int64_t lanes) LIFTER_LAMBDA {
      vfloat x[W];
      load_taps(p, l, lanes, x);
      const vfloat v = taps_.sum(x);
      store_some(out + l, masked(activated ? silu(v) : v, 0, l), lanes);
    });
  }

  static constexpr int64_t kFloats = kSteps + 2 * kLanes;

  // `slopes`: kFloats of scratch, the gradients of the sums before the activation; those of the last vector come first. The
  // gradients of x need slopes of later steps, and come a vector later.
  LIFTER_MEMBER void backward(const CausalConv1dGradient& g, float* slopes) const {
    const T* dout = at(g.dout);
    T* dx = static_cast<T*>(g.dx) + n_ * s_.length;
    const bool activated = s_.silu;
    vfloat dtap[W] = {}, dbias = {};
    for (int64_t first = 0; first < s_.length; first += kSteps) {
      const int64_t end = smaller(first + kSteps, s_.length), over = end < s_.length ? kLanes : 0;
      const float* slope_of_first = slopes + kLanes;
      each_vector(first, end, [&](const T* p, int64_t l, int64_t lanes) LIFTER_LAMBDA {
        vfloat x[W];
        load_taps(p, l, lanes, x);
        vfloat slope = masked(load_some(dout + l, lanes), 0, l);
        if (activated) slope *= silu_slope(taps_.sum(x));
        store(slopes + kLanes + l - first, slope);
        for (int k = 0; k < W; ++k) dtap[k] += slope * x[k];
        dbias += slope;
      });
      if (first == 0 && g.dinitial_states) store_dinitial(slope_of_first, static_cast<T*>(g.dinitial_states) + n_ * (W - 1));
      if (!over) store(slopes + kLanes + padded(end - first), vfloat{});
      by_vectors(first ? first - kLanes : 0, end - over, [&](int64_t l, int64_t lanes) LIFTER_LAMBDA {
        vfloat sum = {};
        for (int k = 0; k < W; ++k) sum += taps_.tap[k] * masked(load(slope_of_first + l - first + k), k, l + k);
        store_some(dx + l, sum, lanes);
      });
      store(slopes, load(slopes + kSteps));
    }
    float* partial = g.partial + b_ * (W + 1) * s_.dim + d_;
    for (int k = 0; k < W; ++k) partial[(W - 1 - k) * s_.dim] = sum_lanes(dtap[k]);
    partial[W * s_.dim] = sum_lanes(dbias);
  }

 private:
  void store_dinitial(const float* slopes, T* dinitial) const {
    for (int i = 0; i < W - 1; ++i) {  // i is W - 1 - i steps before the first
      float sum = 0;
      for (int k = W - 1 - i; k < W; ++k) sum += taps_.tap[k][0] * slopes[k - (W - 1 - i)];
      store1(dinitial + i, sum);
    }
  }

  const T* at(const Rows& rows) const { return static_cast<const T*>(rows.data) + b_ * rows.batch + d_ * rows.row; }

  LIFTER_MEMBER vfloat masked(vfloat v, int k, int64_t l) const {
    return tap_mask_ ? where(v, load(tap_mask_ + k * s_.tap_mask_stride + l)) : v;
  }

  LIFTER_MEMBER void load_taps(const T* p, int64_t l, int64_t lanes, vfloat* x) const {
    for (int k = 0; k < W; ++k) x[k] = masked(load_some(p - k, lanes), k, l);
  }

  // Calls f(p, l, lanes): p is step l, and what is before it can be read.
  template <class F>
  LIFTER_MEMBER void each_vector(int64_t begin, int64_t end, const F& f) const {
    if (begin == 0) f(head_ + W - 1, 0, smaller(kLanes, end));
    by_vectors(begin ? begin : kLanes, end, [&](int64_t l, int64_t lanes) LIFTER_LAMBDA { f(x_ + l, l, lanes); });
  }

  const CausalConv1d& s_;
  const int64_t n_, b_, d_;
  Taps<W> taps_;
  const T* x_;
  T head_[W - 1 + kLanes];  // the first vector of steps, with what is before it
  const uint32_t* tap_mask_ = nullptr;
};

template <class F>
void each_step_row(const CausalConv1d& s, const F& f) {
  const int64_t rows = s.batch * s.dim, share = kTask / (s.length + 1) + 1;
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
  ChannelRows(const CausalConv1d& s, int64_t b, int64_t channel)
      : s_(s), b_(b), channel_(channel), count_(smaller(kChannels, s.dim - channel)), arena_([this](Arena& arena) {
          past_ = arena.take<T>((W - 1) * kChannels), dpast_ = arena.take<T>((W - 1) * kChannels);
        }) {
    if (s.tap_mask) tap_mask_ = s.tap_mask + b * W * s.tap_mask_stride;
    const int64_t state = (b * s.dim + channel) * (W - 1);
    by_vectors(0, count_, [&](int64_t c, int64_t lanes) {
      alignas(64) float tile[(W - 1) * kLanes] = {};
      if (s.initial_states)
        load_tile(static_cast<const T*>(s.initial_states) + state + c * (W - 1), W - 1, 1, lanes, W - 1, tile);
      for (int i = 0; i < W - 1; ++i) store_some(past_ + i * kChannels + c, load(tile + i * kLanes), lanes);
    });
  }

  LIFTER_MEMBER void forward(int64_t first, int64_t count, T* out) const {
    const T* rows[kBlock + W - 1];
    point(first, count, rows);
    out += (b_ * s_.length + first) * s_.dim + channel_;
    const bool activated = s_.silu;
    const int64_t dim = s_.dim, ahead = kPrefetchRows * s_.x.row, out_ahead = kPrefetchRows * dim;
    by_vectors(0, count_, [&](int64_t c, int64_t lanes) LIFTER_LAMBDA {
      const Taps<W> taps = load_filter(c, lanes);
      vfloat x[W];
      for (int k = 1; k < W; ++k) x[k - 1] = load_some(rows[W - 1 - k] + c, lanes);
      for (int64_t r = 0; r < count; ++r) {
        __builtin_prefetch(rows[W - 1 + r] + ahead + c, 0);
        __builtin_prefetch(out + r * dim + out_ahead + c, 1);
        advance(x, load_some(rows[W - 1 + r] + c, lanes));
        const vfloat v = sum(taps, x, first + r);
        store_some(out + r * dim + c, masked(activated ? silu(v) : v, 0, first + r), lanes);
      }
    });
  }

  // Adds to `sums` [W + 1][kChannels], and gives dx of the steps from first - (W - 1) on, as far as they are after `begin`, or
  // if that is 0, of the initial states; `last` [W - 1][kChannels] are the slopes before `first`. Without sums the steps are
  // another's, and only their slopes are wanted; behind the end these are 0.
  LIFTER_MEMBER void backward(const CausalConv1dGradient& g, int64_t begin, int64_t first, int64_t count, float* sums,
                              float* last) const {
    const int64_t there = smaller(count, s_.length - first);
    const T* rows[kBlock + W - 1];
    T* drows[kBlock];
    point(first, there, rows);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t l = first - (W - 1) + i;
      drows[i] = l >= begin ? static_cast<T*>(g.dx) + (b_ * s_.length + l) * s_.dim + channel_
                 : l < 0 && g.dinitial_states ? dpast_ + (l + W - 1) * kChannels
                                              : nullptr;
    }
    const T* dout = static_cast<const T*>(g.dout.data) + b_ * g.dout.batch + first * g.dout.row + channel_;
    const bool activated = s_.silu;
    const int64_t dout_row = g.dout.row, ahead = kPrefetchRows * s_.x.row, dout_ahead = kPrefetchRows * dout_row;
    const int64_t dx_ahead = kPrefetchRows * s_.dim;
    by_vectors(0, count_, [&](int64_t c, int64_t lanes) LIFTER_LAMBDA {
      const Taps<W> taps = load_filter(c, lanes);
      vfloat x[W], slopes[kBlock + W - 1], dtap[W] = {}, dbias = {};
      for (int k = 1; k < W; ++k) x[k - 1] = load_some(rows[W - 1 - k] + c, lanes);
      for (int k = 0; k < W - 1; ++k) slopes[k] = load(last + k * kChannels + c);
      for (int64_t r = 0; r < there; ++r) {
        __builtin_prefetch(rows[W - 1 + r] + ahead + c, 0);
        __builtin_prefetch(dout + r * dout_row + dout_ahead + c, 0);
        advance(x, load_some(rows[W - 1 + r] + c, lanes));
        vfloat slope = masked(load_some(dout + r * dout_row + c, lanes), 0, first + r);
        if (activated) slope *= silu_slope(sum(taps, x, first + r));
        slopes[W - 1 + r] = slope;
        for (int k = 0; k < W; ++k) dtap[k] += slope * masked(x[k], k, first + r);
        dbias += slope;
      }
      for (int64_t r = there; r < count; ++r) slopes[W - 1 + r] = vfloat{};
      for (int64_t i = 0; i < count; ++i) {
        if (!drows[i]) continue;
        __builtin_prefetch(drows[i] + dx_ahead + c, 1);
        vfloat dx = {};
        for (int k = 0; k < W; ++k) dx += taps.tap[k] * masked(slopes[i + k], k, first - (W - 1) + i + k);
        store_some(drows[i] + c, dx, lanes);
      }
      if (!sums) return;
      for (int k = 0; k < W - 1; ++k) store(last + k * kChannels + c, slopes[count + k]);
      for (int k = 0; k < W; ++k) add(sums + (W - 1 - k) * kChannels + c, dtap[k]);
      add(sums + W * kChannels + c, dbias);
    });
  }

  void store_dinitial(const CausalConv1dGradient& g) const {
    by_vectors(0, count_, [&](int64_t c, int64_t lanes) {
      alignas(64) float tile[(W - 1) * kLanes];
      for (int i = 0; i < W - 1; ++i) store(tile + i * kLanes, load_some(dpast_ + i * kChannels + c, lanes));
      T* dinitial = static_cast<T*>(g.dinitial_states) + (b_ * s_.dim + channel_ + c) * (W - 1);
      store_tile(tile, W - 1, 1, lanes, W - 1, dinitial);
    });
  }

  void store_sums(const float* sums, float* partial) const {
    for (int j = 0; j <= W; ++j) memcpy(partial + j * s_.dim + channel_, sums + j * kChannels, count_ * sizeof(float));
  }

 private:
  // rows[i]: step first - (W - 1) + i.
  void point(int64_t first, int64_t count, const T** rows) const {
    const T* x = static_cast<const T*>(s_.x.data) + b_ * s_.x.batch + channel_;
    for (int64_t i = 0; i < count + W - 1; ++i) {
      const int64_t l = first - (W - 1) + i;
      rows[i] = l < 0 ? past_ + (l + W - 1) * kChannels : x + l * s_.x.row;
    }
  }

  LIFTER_MEMBER Taps<W> load_filter(int64_t c, int64_t lanes) const {
    Taps<W> taps;
    for (int k = 0; k < W; ++k) taps.tap[k] = load_some(s_.weight + (W - 1 - k) * s_.dim + channel_ + c, lanes);
    taps.bias = s_.bias ? load_some(s_.bias + channel_ + c, lanes) : vfloat{};
    return taps;
  }

  LIFTER_MEMBER static void advance(vfloat* x, vfloat step) {
    for (int k = W - 1; k > 0; --k) x[k] = x[k - 1];
    x[0] = step;
  }

  LIFTER_MEMBER vfloat masked(vfloat v, int k, int64_t l) const {
    return tap_mask_ ? where(v, vuint{} + tap_mask_[k * s_.tap_mask_stride + l]) : v;
  }

  LIFTER_MEMBER vfloat sum(const Taps<W>& taps, const vfloat* x, int64_t l) const {
    vfloat met[W];
    for (int k = 0; k < W; ++k) met[k] = masked(x[k], k, l);
    return taps.sum(met);
  }

  LIFTER_MEMBER static void add(float* p, vfloat v) { store(p, load(p) + v); }

  const CausalConv1d& s_;
  const int64_t b_, channel_, count_;
  T *past_, *dpast_;  // [W - 1][kChannels], the steps before the first and their gradients
  const uint32_t* tap_mask_ = nullptr;
  const Arena arena_;
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
    const ChannelRows<T, W> rows(s, b, channel);
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
        const vfloat sum = sum_parts(g.partial + j * s.dim + d, g.parts, (W + 1) * s.dim, s.dim - d);
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
      float* slopes;
      const Arena arena([&](Arena& arena) { slopes = arena.take(StepRow<T, W>::kFloats); });
      for (int64_t n = begin; n < end; ++n) StepRow<T, W>(s, n).backward(g, slopes);
    });
    return add_parts<W>(s, g);
  }
  each_segment(s, kSegment, [&](int64_t b, int64_t segment, int64_t channel) {
    constexpr int64_t kSums = (W + 1) * kChannels, kLast = (W - 1) * kChannels;
    const ChannelRows<T, W> rows(s, b, channel);
    float *sums, *last;
    const Arena arena([&](Arena& arena) { sums = arena.take(kSums), last = arena.take(kLast); });
    memset(sums, 0, kSums * sizeof(float));
    memset(last, 0, kLast * sizeof(float));
    const int64_t begin = segment * kSegment, end = smaller(begin + kSegment, s.length);
    for (int64_t l = begin; l < end; l += kBlock) rows.backward(g, begin, l, smaller(kBlock, end - l), sums, last);
    rows.backward(g, begin, end, W - 1, nullptr, last);
    if (begin == 0 && g.dinitial_states) rows.store_dinitial(g);
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
    float *states, *steps;
    const Arena arena([&](Arena& arena) {
      states = arena.take(s.states * kLanes), steps = arena.take((s.length + W - 1) * kLanes);
    });
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
