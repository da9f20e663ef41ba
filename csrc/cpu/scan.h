// The recurrence h = exp(delta A) h + delta u B, y = C h for kLanes channels over one chunk of steps: the core of
// selective_scan and skeleton_scan. Tiles are [step][lane] or [state][lane]; rows of B and C are either shared by the
// lanes (one number per state and step) or, where constant in time, own to each lane.
#pragma once
#include "layout.h"
#include "simd.h"

namespace lifter::LIFTER_CAPABILITY {

constexpr int64_t kTile = kChunk * kLanes;

// B or C: `data` is [step][stride] if shared, [state][lane] if not.
struct Coefficients {
  const float* data;
  int64_t stride;
  bool shared;
};

// Wider where there are registers for it: the states of a tile stay in registers over the chunk.
#ifdef __AVX512F__
constexpr int kForwardStates = 16;
#else
constexpr int kForwardStates = 4;
#endif
constexpr int kBackwardStates = 4;

template <bool kShared>
LIFTER_INLINE vfloat coefficient(const float* data, int64_t n) {
  return kShared ? splat(data[n]) : load(data + n * kLanes);
}

// Which exponential a chunk may use: within +-87 the cheapest, below zero one with a floor, else the full one.
enum class Exponent { small, negative, any };

template <Exponent kExponent>
LIFTER_INLINE vfloat decay(vfloat delta, vfloat a) {
  if (kExponent == Exponent::small) return exp_small(delta * a);
  if (kExponent == Exponent::negative) return exp_negative(delta * a);
  return exp_any(delta * a);
}

// The least and the largest value of each lane.
struct Range {
  vfloat low = {}, high = {};
  LIFTER_MEMBER void add(vfloat x) { low = vmin(x, low), high = vmax(x, high); }
  LIFTER_MEMBER vfloat magnitude() const { return vmax(-low, high); }
};

LIFTER_INLINE Exponent exponent_for(const Range& delta, const Range& A) {
  if (!any((vint)(delta.magnitude() * A.magnitude() > kSmallExponent))) return Exponent::small;
  const bool decaying = !any((vint)(delta.low < 0.0f)) && !any((vint)(A.high > 0.0f));
  return decaying ? Exponent::negative : Exponent::any;
}

// Memory that will be wanted after this chunk: lines are asked for step by step while the chunk computes, so that the
// requests neither queue up nor come late. What a chunk reads is too short a piece for the hardware to see a stream.
struct Prefetch {
  const char* streams[3];
  int64_t row_bytes;  // between the rows of a stream; 0: nothing to ask for
  int log_lines;      // of the cache lines of a chunk in one row
  LIFTER_MEMBER void issue(int64_t step) const {
    if (row_bytes == 0) return;
    const int64_t row = step >> log_lines, at = row * row_bytes + (step - (row << log_lines)) * 64;
    for (const char* p : streams) __builtin_prefetch(p + at);
  }
};

template <int kStates, bool kSharedB, bool kSharedC, Exponent kExponent>
static void scan_states(int64_t steps, const float* u, const float* delta, const float* A, const float* B,
                        int64_t stride_B, const float* C, int64_t stride_C, const Prefetch& prefetch, float* h, float* y) {
  vfloat state[kStates];
  for (int n = 0; n < kStates; ++n) state[n] = load(h + n * kLanes);
  for (int64_t l = 0; l < steps; ++l, B += stride_B, C += stride_C) {
    const vfloat d = load(delta + l * kLanes), du = d * load(u + l * kLanes);
    vfloat sum[2] = {load(y + l * kLanes), {}};
    prefetch.issue(l);
#pragma GCC unroll 16
    for (int n = 0; n < kStates; ++n) {
      state[n] = decay<kExponent>(d, load(A + n * kLanes)) * state[n] + du * coefficient<kSharedB>(B, n);
      sum[n & 1] += state[n] * coefficient<kSharedC>(C, n);
    }
    store(y + l * kLanes, sum[0] + sum[1]);
  }
  for (int n = 0; n < kStates; ++n) store(h + n * kLanes, state[n]);
}

struct Chunk {
  int64_t steps, states;
  const float *u, *delta;  // [step][lane]; delta after softplus
  const float* A;          // [state][lane]
  Coefficients B, C;
  Exponent exponent;
  Prefetch prefetch;
};

template <int kStates, bool kSharedB, bool kSharedC, Exponent kExponent>
static void scan_range(const Chunk& c, int64_t first, int64_t last, float* h, float* y) {
  for (int64_t n = first; n + kStates <= last; n += kStates)
    scan_states<kStates, kSharedB, kSharedC, kExponent>(
        c.steps, c.u, c.delta, c.A + n * kLanes, c.B.data + (kSharedB ? n : n * kLanes), c.B.stride,
        c.C.data + (kSharedC ? n : n * kLanes), c.C.stride, c.prefetch, h + n * kLanes, y);
}

template <bool kSharedB, bool kSharedC, Exponent kExponent>
static void scan_all_states(const Chunk& c, float* h, float* y) {
  const int64_t wide = c.states / kForwardStates * kForwardStates;
  scan_range<kForwardStates, kSharedB, kSharedC, kExponent>(c, 0, wide, h, y);
  scan_range<1, kSharedB, kSharedC, kExponent>(c, wide, c.states, h, y);
}

template <bool kSharedB, bool kSharedC>
static void scan_chunk_as(const Chunk& c, float* h, float* y) {
  switch (c.exponent) {
    case Exponent::small: return scan_all_states<kSharedB, kSharedC, Exponent::small>(c, h, y);
    case Exponent::negative: return scan_all_states<kSharedB, kSharedC, Exponent::negative>(c, h, y);
    case Exponent::any: return scan_range<1, kSharedB, kSharedC, Exponent::any>(c, 0, c.states, h, y);
  }
}

// Adds C h to y and advances h, [state][lane], over the chunk.
LIFTER_INLINE void scan_chunk(const Chunk& c, float* h, float* y) {
  if (c.B.shared && c.C.shared) return scan_chunk_as<true, true>(c, h, y);
  if (c.B.shared) return scan_chunk_as<true, false>(c, h, y);
  if (c.C.shared) return scan_chunk_as<false, true>(c, h, y);
  scan_chunk_as<false, false>(c, h, y);
}

// The arrays that the backward of a chunk reads and adds to. Where B or C is shared, its gradient is kept per lane,
// [state][lane] in every row of `row` floats (the caller sums the lanes once for many channel blocks), else it is
// [state][lane].
struct ChunkGradient {
  const float* dy;     // [step][lane]
  const float* start;  // [state][lane], the state before the chunk
  float* dh;           // [state][lane], gradient of the state after the chunk on entry, of `start` on return
  float *du, *ddelta;  // [step][lane], added to
  float* dA;           // [state][lane], added to
  float *dB, *dC;      // added to
  int64_t row;
  float* y;            // [step][lane], C h is added if not null (the gate needs it)
  float* history;      // 2 * kBackwardStates * kTile, overwritten
};

template <int kStates, bool kSharedB, bool kSharedC, Exponent kExponent>
static void scan_states_backward(const Chunk& chunk, const ChunkGradient& gradient, int64_t first) {
  const Chunk c = chunk;  // copies, which no store can alias
  const ChunkGradient g = gradient;
  const int64_t stride_B = c.B.stride, stride_C = c.C.stride, tile = kStates * kLanes;
  const float* A = c.A + first * kLanes;
  const float* B = c.B.data + (kSharedB ? first : first * kLanes);
  const float* C = c.C.data + (kSharedC ? first : first * kLanes);
  float *decays = g.history, *states = g.history + kStates * kTile;  // of every step, the states before it

  vfloat h[kStates];
  for (int n = 0; n < kStates; ++n) h[n] = load(g.start + (first + n) * kLanes);
  for (int64_t l = 0; l < c.steps; ++l, B += stride_B, C += stride_C, decays += tile, states += tile) {
    const vfloat d = load(c.delta + l * kLanes), du = d * load(c.u + l * kLanes);
    vfloat sum = {};
#pragma GCC unroll 4
    for (int n = 0; n < kStates; ++n) {
      const vfloat a = decay<kExponent>(d, load(A + n * kLanes));
      store(decays + n * kLanes, a);
      store(states + n * kLanes, h[n]);
      h[n] = a * h[n] + du * coefficient<kSharedB>(B, n);
      sum += h[n] * coefficient<kSharedC>(C, n);
    }
    if (g.y) store(g.y + l * kLanes, load(g.y + l * kLanes) + sum);
  }

  vfloat dh[kStates], dA[kStates] = {};
  for (int n = 0; n < kStates; ++n) dh[n] = load(g.dh + (first + n) * kLanes);
  const int64_t row_B = kSharedB ? g.row : 0, row_C = kSharedC ? g.row : 0;
  float* dB = g.dB + c.steps * row_B + first * kLanes;
  float* dC = g.dC + c.steps * row_C + first * kLanes;
  for (int64_t l = c.steps - 1; l >= 0; --l) {
    B -= stride_B, C -= stride_C, decays -= tile, states -= tile, dB -= row_B, dC -= row_C;
    const vfloat d = load(c.delta + l * kLanes), u = load(c.u + l * kLanes), du = d * u, dy = load(g.dy + l * kLanes);
    vfloat ddu = {}, dd = {};
#pragma GCC unroll 4
    for (int n = 0; n < kStates; ++n) {
      store(dC + n * kLanes, load(dC + n * kLanes) + dy * h[n]);
      dh[n] += dy * coefficient<kSharedC>(C, n);
      store(dB + n * kLanes, load(dB + n * kLanes) + dh[n] * du);
      ddu += dh[n] * coefficient<kSharedB>(B, n);
      h[n] = load(states + n * kLanes);
      dh[n] *= load(decays + n * kLanes);
      const vfloat q = dh[n] * h[n];  // the gradient of delta A
      dd += q * load(A + n * kLanes);
      dA[n] += q * d;
    }
    store(g.du + l * kLanes, load(g.du + l * kLanes) + ddu * d);
    store(g.ddelta + l * kLanes, load(g.ddelta + l * kLanes) + ddu * u + dd);
  }
  for (int n = 0; n < kStates; ++n) {
    store(g.dh + (first + n) * kLanes, dh[n]);
    store(g.dA + (first + n) * kLanes, load(g.dA + (first + n) * kLanes) + dA[n]);
  }
}

template <bool kSharedB, bool kSharedC, Exponent kExponent>
static void scan_all_states_backward(const Chunk& c, const ChunkGradient& g) {
  int64_t n = 0;
  for (; n + kBackwardStates <= c.states; n += kBackwardStates)
    scan_states_backward<kBackwardStates, kSharedB, kSharedC, kExponent>(c, g, n);
  for (; n < c.states; ++n) scan_states_backward<1, kSharedB, kSharedC, kExponent>(c, g, n);
}

template <bool kSharedB, bool kSharedC>
static void scan_chunk_backward_as(const Chunk& c, const ChunkGradient& g) {
  switch (c.exponent) {
    case Exponent::small: return scan_all_states_backward<kSharedB, kSharedC, Exponent::small>(c, g);
    case Exponent::negative: return scan_all_states_backward<kSharedB, kSharedC, Exponent::negative>(c, g);
    case Exponent::any: return scan_all_states_backward<kSharedB, kSharedC, Exponent::any>(c, g);
  }
}

LIFTER_INLINE void scan_chunk_backward(const Chunk& c, const ChunkGradient& g) {
  if (c.B.shared && c.C.shared) return scan_chunk_backward_as<true, true>(c, g);
  if (c.B.shared) return scan_chunk_backward_as<true, false>(c, g);
  if (c.C.shared) return scan_chunk_backward_as<false, true>(c, g);
  scan_chunk_backward_as<false, false>(c, g);
}

}  // namespace lifter::LIFTER_CAPABILITY
