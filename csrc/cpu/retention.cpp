// Retention: per (joint, head) and chunk, blocks of queries meet the keys of the chunk and the state before it.
//
// For one joint and head, let g be its decay, q_n the query, rotated as at frame n and scaled, and k_m the key, rotated by
// the inverse. Then
//
//   o_n = sum over m of g^|n - m| (q_n . k_m) v_m      for all m that n sees: the frames before its chunk, and of its chunk
//                                                      those up to n (causal) or all
//
// Let n and m count from the start of a chunk of L frames, and S = sum over m < 0 of g^(-1 - m) k_m v_m^T be the state before
// it. As g^(n - m) = g^(n + 1) g^(-1 - m), the sum falls apart, with w_nm = g^|n - m| where n sees m, else 0:
//
//   o_n = sum over m of w_nm (q_n . k_m) v_m  +  g^(n + 1) S^T q_n               `sums_` from `products_`, and `cross_`
//   S'  = g^L S + sum over m of g^(L - 1 - m) k_m v_m^T                          `advance`; the v so weighted are `weighted_`
//
// S' still counts frames from the start of the chunk: `move_origin` rotates its keys by L frames, to the start of the next.
//
// Backward, from the last chunk to the first, `dstate_` being dS' on entry and dS on return, moved back by L frames. With
// P_nm = w_nm (q_n . k_m) and dP_nm = do_n . v_m (`products_`, `dproducts_`):
//
//   dq_n = sum over m of w_nm dP_nm k_m  +  g^(n + 1) S do_n                     `weighted_douts_` are g^(n + 1) do_n
//   dk_m = sum over n of w_nm dP_nm q_n  +  g^(L - 1 - m) dS' v_m
//   dv_m = sum over n of P_nm do_n       +  g^(L - 1 - m) dS'^T k_m
//   dS   = g^L dS'  +  sum over n of g^(n + 1) q_n do_n^T
//
// Each term above is a power of g times what does not depend on g, so that g dL/dg sums exponent times term times gradient:
//
//   g dg = sum over n, m of |n - m| P_nm dP_nm  +  sum over n of (n + 1) q_n . (g^(n + 1) S do_n)
//        + sum over m of (L - 1 - m) v_m . (g^(L - 1 - m) dS'^T k_m)  +  L <g^L dS', S>      `ddecay_`, chunk by chunk
//
// dq and dk are rotated back at last, dq times the scale.
#include "retention.h"

#include "arena.h"
#include "gemm.h"
#include "work_item.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

constexpr int64_t kQueries = 24;          // of a block; its products with 243 keys stay in the first cache
constexpr int64_t kGradientQueries = 48;  // more: the sums over queries are loaded and stored once per block

// Shared by forward and backward: the powers of a work item's decay, the rotation of rows, and the state.
template <class T>
class Walk {
 public:
  explicit Walk(const Retention& s)
      : s_(s), length_(smaller(s.chunk, s.frames)), key_row_(padded(s.keys)), value_row_(padded(s.values)),
        ld_(leading_dimension(length_)), arena_([this](Arena& arena) { lay_out(arena); }) {}

 protected:
  int64_t state_size() const { return s_.keys * value_row_; }
  int64_t chunks() const { return (s_.frames + length_ - 1) / length_; }

  void start(const WorkItem& p, const WorkItem& next) {
    k_prefetch_ = next.offset(s_.k_strides) - p.offset(s_.k_strides);
    v_prefetch_ = next.offset(s_.v_strides) - p.offset(s_.v_strides);
    state_prefetch_ = (next.number - p.number) * s_.keys * s_.values;
    const double decay = s_.decay[p.row * s_.heads + p.head];
    double power = 1;
    for (int64_t n = 0; n <= length_; ++n, power *= decay) powers_[n] = static_cast<float>(power);
    for (int64_t n = 0; n < length_; ++n) {
      weights_[length_ - n] = powers_[n];
      weights_[length_ + n] = s_.causal && n ? 0 : powers_[n];
    }
    for (int64_t n = 0; n < kLanes; ++n) weights_[2 * length_ + n] = 0;
  }

  // decay^|i - j| for the keys j, j + 1, ... of query i; zero where the mask is.
  LIFTER_MEMBER vfloat weights(int64_t i, int64_t j) const { return load(weights_ + length_ + j - i); }
  LIFTER_MEMBER vfloat distances(int64_t i, int64_t j) const {
    vfloat d;
    for (int l = 0; l < kLanes; ++l) d[l] = static_cast<float>(j + l - i);
    return vabs(d);
  }

  // How many keys of a chunk the queries before `end` see.
  int64_t seen(int64_t length, int64_t end) const { return s_.causal ? smaller(length, end) : length; }

  // Rows of q (Which = 0) or k (1), turned as at frames first, first + 1, ... of a chunk; or, `back`, the transpose of that.
  template <int Which>
  LIFTER_MEMBER void rotate(float* rows, int64_t first, int64_t count, bool back = false) const {
    if (!s_.rotary) return;
    const float* cosines = s_.rotary + ((2 * Which) * (s_.chunk + 1) + first) * s_.rotary_row;
    const float* sines = cosines + (s_.chunk + 1) * s_.rotary_row;
    for (int64_t i = 0; i < count; ++i)
      for (int64_t c = 0; c < key_row_; c += kLanes) {
        const vfloat x = load(rows + i * key_row_ + c), sine = load(sines + i * s_.rotary_row + c);
        store(rows + i * key_row_ + c, x * load(cosines + i * s_.rotary_row + c) + swap_pairs(x) * (back ? -sine : sine));
      }
  }

  void load_chunk(const WorkItem& p, int64_t first, int64_t length) {
    load_rows(static_cast<const T*>(s_.k) + p.offset(s_.k_strides, first), s_.k_strides.token, length, s_.keys, keys_,
              key_row_, k_prefetch_);
    rotate<1>(keys_, 0, length);
    load_rows(static_cast<const T*>(s_.v) + p.offset(s_.v_strides, first), s_.v_strides.token, length, s_.values, values_,
              value_row_, v_prefetch_);
  }

  void load_state(const float* from, const WorkItem& p, float* state) const {
    if (!from) return static_cast<void>(memset(state, 0, state_size() * sizeof(float)));
    load_rows(from + p.number * s_.keys * s_.values, s_.values, s_.keys, s_.values, state, value_row_, state_prefetch_);
  }

  void store_state(const float* state, const WorkItem& p, float* to) const {
    store_rows(state, value_row_, s_.keys, s_.values, to + p.number * s_.keys * s_.values, s_.values);
  }

  // The state after a loaded chunk from the state before it; `weighted` is room for the chunk's values.
  void advance(int64_t length, const float* before, float* weighted, float* after) const {
    for (int64_t i = 0; i < state_size(); i += kLanes) store(after + i, load(before + i) * powers_[length]);
    weigh_values(length, weighted);
    gemm(s_.keys, value_row_, length, keys_, 1, key_row_, weighted, value_row_, after, value_row_, true);
    move_origin(length, after, 1);
  }

  // Values times decay^(frames after them in the chunk).
  void weigh_values(int64_t length, float* weighted) const {
    for (int64_t j = 0; j < length; ++j)
      for (int64_t c = 0; c < value_row_; c += kLanes)
        store(weighted + j * value_row_ + c, load(values_ + j * value_row_ + c) * powers_[length - 1 - j]);
  }

  // Frames of the state's keys count from the end of the chunk instead of its start; `sign` -1 gives the transpose.
  void move_origin(int64_t length, float* state, float sign) const {
    if (!s_.rotary) return;
    const float* cosines = s_.rotary + length * s_.rotary_row;
    const float* sines = cosines + (s_.chunk + 1) * s_.rotary_row;
    for (int64_t d = 0; d + 1 < s_.keys; d += 2) {
      float *even = state + d * value_row_, *odd = even + value_row_;
      const float cosine = cosines[d], sine = sign * sines[d + 1];
      for (int64_t c = 0; c < value_row_; c += kLanes) {
        const vfloat e = load(even + c), o = load(odd + c);
        store(even + c, e * cosine + o * sine);
        store(odd + c, o * cosine - e * sine);
      }
    }
  }

  const Retention& s_;
  const int64_t length_, key_row_, value_row_, ld_;
  int64_t k_prefetch_ = 0, v_prefetch_ = 0, state_prefetch_ = 0;  // from a work item's elements to the next one's
  float *powers_, *weights_, *keys_, *values_;

 private:
  void lay_out(Arena& arena) {
    powers_ = arena.take(length_ + 1), weights_ = arena.take(2 * length_ + kLanes);
    keys_ = arena.take(length_ * key_row_), values_ = arena.take(length_ * value_row_);
  }
  const Arena arena_;
};

template <class T, class Unit>
class Forward : Walk<T> {
  using Base = Walk<T>;
  using Base::s_, Base::length_, Base::key_row_, Base::value_row_, Base::ld_, Base::keys_, Base::values_;
  using Op = Operand<Unit>;

 public:
  Forward(const Retention& s, T* out, float* final)
      : Base(s), out_(out), final_(final), units_(padded(Op::depth(s.keys))),
        arena_([this](Arena& arena) { lay_out(arena); }) {}

  void operator()(const WorkItem& p, const WorkItem& next) {
    Base::start(p, next);
    q_prefetch_ = next.offset(s_.q_strides) - p.offset(s_.q_strides);
    Base::load_state(s_.state, p, state_);
    for (int64_t first = 0; first < s_.frames; first += length_) {
      const int64_t length = smaller(length_, s_.frames - first);
      const bool last = first + length == s_.frames;
      Base::load_chunk(p, first, length);
      const Unit* keys = Op::over_columns(keys_, key_row_, length, key_row_, key_units_, units_);
      transpose_rows(keys, units_, length, Op::depth(s_.keys), keys_t_, ld_);
      const Unit* values = Op::over_rows(values_, value_row_, length, value_row_, value_units_);
      for (int64_t i = 0; i < length; i += kQueries)
        block(p, values, first, i, smaller(kQueries, length - i), length, first || s_.state);
      if (last && !final_) break;
      Base::advance(length, state_, weighted_, next_state_);
      std::swap(state_, next_state_);
    }
    if (final_) Base::store_state(state_, p, final_);
  }

 private:
  void lay_out(Arena& arena) {
    key_units_ = arena.take(length_ * units_), query_units_ = arena.take(kQueries * units_);
    value_units_ = arena.take((length_ + 1) * value_row_), weighted_ = arena.take(length_ * value_row_);
    sums_ = arena.take(kQueries * value_row_), cross_ = arena.take(kQueries * value_row_);
    queries_ = arena.take(kQueries * key_row_), keys_t_ = arena.take(s_.keys * ld_);
    products_ = arena.take(kQueries * ld_), product_units_ = arena.take(kQueries * ld_);
    state_ = arena.take(Base::state_size()), next_state_ = arena.take(Base::state_size());
  }

  // Queries [i, i + count) of the chunk that starts at frame `first`.
  void block(const WorkItem& p, const Unit* values, int64_t first, int64_t i, int64_t count, int64_t length, bool has_state) {
    load_rows(static_cast<const T*>(s_.q) + p.offset(s_.q_strides, first + i), s_.q_strides.token, count, s_.keys, queries_,
              key_row_, q_prefetch_, s_.scale);
    Base::template rotate<0>(queries_, i, count);
    const Unit* queries = Op::over_columns(queries_, key_row_, count, key_row_, query_units_, units_);
    const int64_t seen = Base::seen(length, i + count), width = padded(seen);
    gemm(count, width, Op::depth(s_.keys), queries, units_, 1, Op::of(keys_t_), ld_, products_, ld_);
    for (int64_t r = 0; r < count; ++r)
      for (int64_t j = 0; j < width; j += kLanes) {
        float* x = products_ + r * ld_ + j;
        store(x, load(x) * Base::weights(i + r, j));
      }
    const Unit* products = Op::over_columns(products_, ld_, count, width, product_units_, ld_);
    gemm(count, value_row_, Op::depth(seen), products, ld_, 1, values, value_row_, sums_, value_row_);
    if (has_state) {
      gemm(count, value_row_, s_.keys, queries_, key_row_, 1, state_, value_row_, cross_, value_row_);
      for (int64_t r = 0; r < count; ++r)
        for (int64_t c = 0; c < value_row_; c += kLanes) {
          float* sum = sums_ + r * value_row_ + c;
          store(sum, load(sum) + load(cross_ + r * value_row_ + c) * this->powers_[i + r + 1]);
        }
    }
    store_rows(sums_, value_row_, count, s_.values, out_ + p.offset(s_.out_strides, first + i), s_.out_strides.token);
  }

  T* out_;
  float* final_;
  int64_t q_prefetch_ = 0;
  const int64_t units_;
  float *key_units_, *query_units_, *value_units_, *weighted_, *sums_, *cross_, *queries_, *keys_t_, *products_,
      *product_units_, *state_, *next_state_;
  const Arena arena_;
};

template <class T>
class Backward : Walk<T> {
  using Base = Walk<T>;
  using Base::s_, Base::length_, Base::key_row_, Base::value_row_, Base::ld_, Base::keys_, Base::values_, Base::powers_;

 public:
  Backward(const Retention& s, const RetentionGradient& g)
      : Base(s), g_(g),
        arena_([this](Arena& arena) { lay_out(arena); }) {}

  void operator()(const WorkItem& p, const WorkItem& next) {
    Base::start(p, next);
    const int64_t size = Base::state_size(), chunks = Base::chunks();
    Base::load_state(s_.state, p, states_);
    for (int64_t n = 0; n + 1 < chunks; ++n) {
      Base::load_chunk(p, n * length_, length_);
      Base::advance(length_, states_ + n * size, weighted_, states_ + (n + 1) * size);
    }
    Base::load_state(g_.dfinal, p, dstate_);
    ddecay_ = 0;
    for (int64_t n = chunks - 1; n >= 0; --n)
      chunk(p, n * length_, smaller(length_, s_.frames - n * length_), states_ + n * size, n || s_.state,
            n + 1 < chunks || g_.dfinal);
    g_.ddecay[p.number] = static_cast<float>(ddecay_ / s_.decay[p.row * s_.heads + p.head]);
    if (g_.dstate) Base::store_state(dstate_, p, g_.dstate);
  }

 private:
  void lay_out(Arena& arena) {
    dkeys_ = arena.take(length_ * key_row_), dvalues_ = arena.take(length_ * value_row_);
    weighted_ = arena.take(length_ * value_row_);
    keys_t_ = arena.take(s_.keys * ld_), values_t_ = arena.take(s_.values * ld_);
    products_ = arena.take(kGradientQueries * ld_), dproducts_ = arena.take(kGradientQueries * ld_);
    queries_ = arena.take(kGradientQueries * key_row_), dqueries_ = arena.take(kGradientQueries * key_row_);
    douts_ = arena.take(kGradientQueries * value_row_), weighted_douts_ = arena.take(kGradientQueries * value_row_);
    states_ = arena.take((Base::chunks() + 1) * Base::state_size()), dstate_ = arena.take(Base::state_size());
    state_t_ = arena.take(s_.values * key_row_), dstate_t_ = arena.take(s_.values * key_row_);
  }

  // On entry dstate_ is the gradient of the state after the chunk, on return of the state before it. ddecay_ collects
  // exponent times term, which is the derivative times the decay.
  void chunk(const WorkItem& p, int64_t first, int64_t length, const float* state, bool has_state, bool feeds_state) {
    Base::load_chunk(p, first, length);
    transpose_rows(keys_, key_row_, length, s_.keys, keys_t_, ld_);
    transpose_rows(values_, value_row_, length, s_.values, values_t_, ld_);
    memset(dkeys_, 0, length * key_row_ * sizeof(float));
    memset(dvalues_, 0, length * value_row_ * sizeof(float));
    if (feeds_state) through_state_after(length, state);
    if (has_state) transpose_rows(state, value_row_, s_.keys, s_.values, state_t_, key_row_);
    for (int64_t i = 0; i < length; i += kGradientQueries)
      block(p, first, i, smaller(kGradientQueries, length - i), length, has_state);
    Base::template rotate<1>(dkeys_, 0, length, true);
    store_rows(dkeys_, key_row_, length, s_.keys, static_cast<T*>(g_.dk) + p.offset(g_.dq_strides, first),
               g_.dq_strides.token);
    store_rows(dvalues_, value_row_, length, s_.values, static_cast<T*>(g_.dv) + p.offset(g_.dv_strides, first),
               g_.dv_strides.token);
  }

  void through_state_after(int64_t length, const float* state) {
    Base::move_origin(length, dstate_, -1);
    transpose_rows(dstate_, value_row_, s_.keys, s_.values, dstate_t_, key_row_);
    Base::weigh_values(length, weighted_);
    gemm(length, key_row_, s_.values, weighted_, value_row_, 1, dstate_t_, key_row_, dkeys_, key_row_);
    gemm(length, value_row_, s_.keys, keys_, key_row_, 1, dstate_, value_row_, dvalues_, value_row_);
    for (int64_t j = 0; j < length; ++j) {
      vfloat sum = {};
      for (int64_t c = 0; c < value_row_; c += kLanes) {
        float* dvalue = dvalues_ + j * value_row_ + c;
        store(dvalue, load(dvalue) * powers_[length - 1 - j]);
        sum += load(dvalue) * load(values_ + j * value_row_ + c);
      }
      ddecay_ += static_cast<double>(length - 1 - j) * sum_lanes(sum);
    }
    vfloat sum = {};
    for (int64_t i = 0; i < Base::state_size(); i += kLanes) {
      const vfloat d = load(dstate_ + i) * powers_[length];
      store(dstate_ + i, d);
      sum += d * load(state + i);
    }
    ddecay_ += static_cast<double>(length) * sum_lanes(sum);
  }

  void block(const WorkItem& p, int64_t first, int64_t i, int64_t count, int64_t length, bool has_state) {
    load_rows(static_cast<const T*>(s_.q) + p.offset(s_.q_strides, first + i), s_.q_strides.token, count, s_.keys, queries_,
              key_row_, 0, s_.scale);
    Base::template rotate<0>(queries_, i, count);
    load_rows(static_cast<const T*>(g_.dout) + p.offset(s_.out_strides, first + i), s_.out_strides.token, count, s_.values,
              douts_, value_row_, 0);
    if (has_state) through_state_before(i, count);

    const int64_t seen = Base::seen(length, i + count), width = padded(seen);
    gemm(count, width, s_.keys, queries_, key_row_, 1, keys_t_, ld_, products_, ld_);
    gemm(count, width, s_.values, douts_, value_row_, 1, values_t_, ld_, dproducts_, ld_);
    for (int64_t r = 0; r < count; ++r) {
      vfloat sum = {};
      for (int64_t j = 0; j < width; j += kLanes) {
        float *x = products_ + r * ld_ + j, *dx = dproducts_ + r * ld_ + j;
        const vfloat weight = Base::weights(i + r, j), weighted = load(x) * weight;
        sum += Base::distances(i + r, j) * weighted * load(dx);
        store(x, weighted);
        store(dx, load(dx) * weight);
      }
      ddecay_ += sum_lanes(sum);
    }
    gemm(seen, value_row_, count, products_, 1, ld_, douts_, value_row_, dvalues_, value_row_, true);
    gemm(seen, key_row_, count, dproducts_, 1, ld_, queries_, key_row_, dkeys_, key_row_, true);
    gemm(count, key_row_, seen, dproducts_, ld_, 1, keys_, key_row_, dqueries_, key_row_, has_state);
    Base::template rotate<0>(dqueries_, i, count, true);
    for (int64_t c = 0; c < count * key_row_; c += kLanes) store(dqueries_ + c, load(dqueries_ + c) * s_.scale);
    store_rows(dqueries_, key_row_, count, s_.keys, static_cast<T*>(g_.dq) + p.offset(g_.dq_strides, first + i),
               g_.dq_strides.token);
  }

  // Begins dqueries_ with what comes from the state before the chunk, and adds to that state's gradient.
  void through_state_before(int64_t i, int64_t count) {
    for (int64_t r = 0; r < count; ++r)
      for (int64_t c = 0; c < value_row_; c += kLanes)
        store(weighted_douts_ + r * value_row_ + c, load(douts_ + r * value_row_ + c) * powers_[i + r + 1]);
    gemm(count, key_row_, s_.values, weighted_douts_, value_row_, 1, state_t_, key_row_, dqueries_, key_row_);
    gemm(s_.keys, value_row_, count, queries_, 1, key_row_, weighted_douts_, value_row_, dstate_, value_row_, true);
    for (int64_t r = 0; r < count; ++r) {
      vfloat sum = {};
      for (int64_t c = 0; c < key_row_; c += kLanes)
        sum += load(dqueries_ + r * key_row_ + c) * load(queries_ + r * key_row_ + c);
      ddecay_ += static_cast<double>(i + r + 1) * sum_lanes(sum);
    }
  }

  const RetentionGradient& g_;
  double ddecay_ = 0;
  float *dkeys_, *dvalues_, *weighted_, *keys_t_, *values_t_, *products_, *dproducts_, *queries_, *dqueries_, *douts_,
      *weighted_douts_, *states_, *dstate_, *state_t_, *dstate_t_;
  const Arena arena_;
};

}  // namespace

void retention_forward(const Retention& s, void* out, float* final) {
  with_precision(s.precision, [&](auto t, auto unit) {
    using T = decltype(t);
    each_work_item<Forward<T, decltype(unit)>>(s.batch, s.joints, s.heads, s, static_cast<T*>(out), final);
  });
}

void retention_backward(const Retention& s, const RetentionGradient& g) {
  with_precision(s.precision, [&](auto t, auto) {
    each_work_item<Backward<decltype(t)>>(s.batch, s.joints, s.heads, s, g);
  });
}

}  // namespace lifter::LIFTER_CAPABILITY
