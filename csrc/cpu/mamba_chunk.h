// A chunk of steps of mamba_chunk_scan, which its forward and its backward share.
#pragma once
#include "arena.h"
#include "gemm.h"
#include "mamba_chunk_scan.h"
#include "work_item.h"

namespace lifter::LIFTER_CAPABILITY {

constexpr int64_t kSteps = 64;  // of a chunk
constexpr int64_t kRows = 32;  // of a block of them; whole vectors
constexpr int64_t kMatrix = leading_dimension(kSteps);  // from row to row of a matrix of pairs of steps
constexpr int64_t kFew = 4;  // steps that go through the state one by one, as it lies in memory
constexpr float kFar = -200;  // no less than this is a: e^a is 0 anyway, and differences of their sums stay exact

LIFTER_INLINE vint numbers(int64_t first) {
  vint n;
  for (int l = 0; l < kLanes; ++l) n[l] = static_cast<int32_t>(first + l);
  return n;
}

LIFTER_INLINE float exp_one(double x) { return exp_any(splat(static_cast<float>(x)))[0]; }

LIFTER_INLINE vfloat silu_slope(vfloat z, vfloat s) { return s * (1.0f + z * (1.0f - s)); }  // s = sigmoid(z)

// Calls f(first, count) for blocks of rows.
template <class F>
LIFTER_INLINE void blocks(int64_t rows, const F& f) {
  for (int64_t i = 0; i < rows; i += kRows) f(i, smaller(kRows, rows - i));
}

// out = rows times a factor of each; `out` may be `in`.
LIFTER_INLINE void scale_rows(const float* in, const float* factors, int64_t rows, int64_t cols, float* out) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t c = 0; c < cols; c += kLanes) store(out + i * cols + c, load(in + i * cols + c) * factors[i]);
}

LIFTER_INLINE float dot(const float* a, const float* b, int64_t size) {
  vfloat sum = {};
  for (int64_t c = 0; c < size; c += kLanes) sum += load(a + c) * load(b + c);
  return sum_lanes(sum);
}

// The steps of a chunk, and how a state goes over it.
template <class T>
class Walk {
 public:
  explicit Walk(const MambaChunkScan& s)
      : s_(s), key_row_(padded(s.states)), value_row_(padded(s.width)), state_(s.states * value_row_),
        arena_([this](Arena& arena) { lay_out(arena); }) {}

 protected:
  int64_t chunks() const { return (s_.length + kSteps - 1) / kSteps; }
  int64_t most_heads() const { return (s_.heads / s_.groups + s_.parts - 1) / s_.parts; }

  // Which heads a task has.
  void start(const WorkItem& p) {
    const int64_t heads = s_.heads / s_.groups;
    batch_ = p.batch, group_ = p.row;
    first_head_ = group_ * heads + p.head * heads / s_.parts, end_head_ = group_ * heads + (p.head + 1) * heads / s_.parts;
  }

  template <class Map>
  Map* at(Map* map, const Strides& strides, int64_t head, int64_t step) const {
    return map + batch_ * strides.batch + step * strides.token + head * strides.head;
  }
  int64_t number(int64_t head) const { return batch_ * s_.heads + head; }

  void start_chunk(int64_t first) {
    first_ = first, length_ = smaller(kSteps, s_.length - first);
    load_rows(at(static_cast<const T*>(s_.B), s_.B_strides, group_, first), s_.B_strides.token, length_, s_.states, keys_,
              key_row_, 0);
    carried_ = length_, last_ = 0;
    const int32_t* index = s_.seq_idx ? s_.seq_idx + batch_ * s_.length + first : nullptr;
    for (int64_t i = 0; i < length_; ++i) {
      if (index && first + i > 0 && index[i] != index[i - 1]) last_ = i, carried_ = smaller(carried_, i);
      starts_[i] = static_cast<int32_t>(last_);
    }
    for (int64_t i = length_; i < kSteps; ++i) starts_[i] = kSteps;  // of no step
  }

  void load_queries() {
    load_rows(at(static_cast<const T*>(s_.C), s_.C_strides, group_, first_), s_.C_strides.token, length_, s_.states, queries_,
              key_row_, 0);
  }

  // The time steps, sums and factors of a head, and its inputs.
  void start_head(int64_t head) {
    head_ = head;
    const float bias = s_.dt_bias ? s_.dt_bias[head] : 0;
    for (int64_t i = 0; i < length_; ++i) raw_[i] = s_.dt[(batch_ * s_.length + first_ + i) * s_.heads + head] + bias;
    for (int64_t i = 0; i < length_; i += kLanes) {
      const vfloat dt = s_.softplus ? softplus(load(raw_ + i)) : load(raw_ + i);
      store(unbound_ + i, dt);
      store(dt_ + i, vmin(splat(s_.largest), vmax(splat(s_.least), dt)));
    }
    double sum = 0;
    for (int64_t i = 0; i < length_; ++i) {
      const float a = dt_[i] * s_.A[head];
      sum += a < kFar ? kFar : a;
      high_[i] = static_cast<float>(sum), low_[i] = static_cast<float>(sum - high_[i]);
    }
    whole_ = carried_ == length_ ? exp_one(sum) : 0;
    const vfloat high = splat(high_[length_ - 1]), low = splat(low_[length_ - 1]);
    for (int64_t i = 0; i < length_; i += kLanes) {
      const vint n = numbers(i);
      store(before_ + i, n < static_cast<int32_t>(carried_) ? exp_any(load(high_ + i)) : vfloat{});
      store(after_ + i,
            n < static_cast<int32_t>(last_) ? vfloat{} : exp_any((high - load(high_ + i)) + (low - load(low_ + i))));
    }
    load_rows(at(static_cast<const T*>(s_.x), s_.x_strides, head, first_), s_.x_strides.token, length_, s_.width, x_,
              value_row_, 0);
    scale_rows(x_, dt_, length_, value_row_, u_);
  }

  // e^(c_i - c_j) or e^(c_j - c_i) for the steps j, j + 1, ...
  LIFTER_MEMBER vfloat factors(int64_t i, int64_t j, bool later) const {
    const vfloat d = (splat(high_[i]) - load(high_ + j)) + (splat(low_[i]) - load(low_ + j));
    return exp_any(later ? -d : d);
  }

  // The state after the chunk from the state before it; they may be the same.
  void advance(const float* before, float* after) {
    for (int64_t i = 0; i < state_; i += kLanes) store(after + i, whole_ == 0 ? vfloat{} : load(before + i) * whole_);
    scale_rows(u_, after_, length_, value_row_, weighted_);
    gemm(s_.states, value_row_, length_, keys_, 1, key_row_, weighted_, value_row_, after, value_row_, true);
  }

  void load_state(const float* from, int64_t head, float* state) {
    if (!from) return static_cast<void>(memset(state, 0, state_ * sizeof(float)));
    load_rows(from + number(head) * s_.width * s_.states, s_.states, s_.width, s_.states, turned_, key_row_, 0);
    transpose_rows(turned_, key_row_, s_.width, s_.states, state, value_row_);
  }

  void store_state(const float* state, int64_t head, float* to) {
    transpose_rows(state, value_row_, s_.states, s_.width, turned_, key_row_);
    store_rows(turned_, key_row_, s_.width, s_.states, to + number(head) * s_.width * s_.states, s_.states);
  }

  const MambaChunkScan& s_;
  const int64_t key_row_, value_row_, state_;  // the last: the floats of a state, (states, value_row_)
  int64_t batch_, group_, first_head_, end_head_, first_, length_, head_;
  int64_t carried_, last_;  // steps of the chunk that see the state before it; the first that the state after it sees
  float whole_;  // what is left of a state after the chunk
  int32_t* starts_;  // of the sequences of the steps, in the chunk
  float *raw_, *unbound_, *dt_, *high_, *low_, *before_, *after_;  // of each step; c = high + low
  float *keys_, *queries_, *x_, *u_, *weighted_, *turned_;

 private:
  void lay_out(Arena& arena) {
    starts_ = arena.take<int32_t>(kSteps);
    for (float** row : {&raw_, &unbound_, &dt_, &high_, &low_, &before_, &after_}) *row = arena.take(kSteps);
    for (float** rows : {&keys_, &queries_}) *rows = arena.take(kSteps * key_row_);
    for (float** rows : {&x_, &u_, &weighted_}) *rows = arena.take(kSteps * value_row_);
    turned_ = arena.take(s_.width * key_row_);
  }
  const Arena arena_;
};

}  // namespace lifter::LIFTER_CAPABILITY
