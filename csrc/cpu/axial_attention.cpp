// Attention along one axis of a clip: per (row, head) the keys are packed once, then blocks of queries meet all of them,
// or of a packed mask those that it shows.
#include "axial_attention.h"

#include <math.h>

#include "arena.h"
#include "gemm.h"
#include "softmax.h"
#include "sparse_mask.h"
#include "work_item.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

LIFTER_INLINE vuint mix(vuint x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

// Applies masks and dropout to the scores and weights of one work item. `columns` tells its keys.
class Rules {
 public:
  Rules(const AxialAttention& s, const WorkItem& p, const VisibleColumns& columns)
      : s_(s), columns_(columns), mask_offset_(p.batch * s.mask_strides[0] + p.row * s.mask_strides[1]),
        hash_(mix(vuint{} + (s.seed + static_cast<uint32_t>(p.number)))[0]) {
    for (int i = 0; i < kLanes; ++i) lane_[i] = i, bit_[i] = 1u << i;
  }

  // The bits of the keys that query `i` sees, of a packed mask.
  const uint32_t* words(int64_t i) const { return s_.bitmask + mask_offset_ + i * s_.mask_strides[2]; }

  // The columns of the block of queries from `i` on; in two words there is little to leave out.
  void choose(VisibleColumns& columns, int64_t i, int64_t count) const {
    if (s_.bitmask && s_.length > 2 * kWordBits) columns.choose(words(i), s_.mask_strides[2], count);
  }

  // Masks the scores of query `i`; what is no key becomes minus infinity, as what is not allowed.
  LIFTER_MEMBER void mask(float* row, int64_t i) const {
    const int64_t at = mask_offset_ + i * s_.mask_strides[2];
    if (s_.bitmask)
      for (int64_t j = 0, keys = columns_.count(); j < keys; j += kWordBits) {
        const vuint word = vuint{} + s_.bitmask[at + columns_.key(j) / kWordBits];
#pragma GCC unroll 8
        for (int64_t l = 0; l < kWordBits; l += kLanes)
          if (j + l < keys) store(row + j + l, (word & (bit_ << l)) != 0 ? load(row + j + l) : splat(-INFINITY));
      }
    else if (s_.allowed)
      for (int64_t j = 0; j < s_.length; j += kLanes)
        store(row + j, load_some(s_.allowed + at + j, s_.length - j) ? load(row + j) : splat(-INFINITY));
    else if (s_.additive)
      for (int64_t j = 0; j < s_.length; j += kLanes)
        store(row + j, load(row + j) + load_some(s_.additive + at + j, s_.length - j));
    end(row, columns_.count());
  }

  // Minus infinity after the last of `count` scores.
  LIFTER_MEMBER void end(float* row, int64_t count) const {
    if (const int32_t some = count % kLanes; some) {
      float* last = row + count - some;
      store(last, (vint)lane_ < (vint{} + some) ? load(last) : splat(-INFINITY));
    }
  }

  // Returns the weights that query `i` gives to the keys of the columns from `j` on, after dropout.
  LIFTER_MEMBER vfloat weigh(int64_t i, int64_t j, vfloat weight) const {
    return s_.drops ? weight * dropout(i, j) : weight;
  }

  bool drops() const { return s_.drops; }
  LIFTER_MEMBER vfloat dropout(int64_t i, int64_t j) const {
    return dropout(i, lane_ + static_cast<uint32_t>(columns_.key(j)));
  }
  LIFTER_MEMBER vfloat dropout(int64_t i, vuint keys) const {
    const vuint place = keys + (hash_ + static_cast<uint32_t>(i * s_.length));
    return mix(place) >= (vuint{} + s_.threshold) ? splat(s_.kept) : vfloat{};
  }

 private:
  const AxialAttention& s_;
  const VisibleColumns& columns_;
  int64_t mask_offset_;
  vuint bit_;
  uint32_t hash_;
  vuint lane_;
};

// The same where a query's scores are those of the `count` keys that it sees.
struct VisibleRules {
  LIFTER_MEMBER void mask(float* row, int64_t) const {
    if (count) rules.end(row, count);
    else store(row, splat(-INFINITY));
  }
  LIFTER_MEMBER vfloat weigh(int64_t i, int64_t n, vfloat weight) const {
    return rules.drops() ? weight * rules.dropout(i, load(keys + n)) : weight;
  }

  const Rules& rules;
  const uint32_t* keys;
  int64_t count;
};

template <class T, class Unit>
class Forward {
  using Op = Operand<Unit>;

 public:
  Forward(const AxialAttention& s, T* out, float* lse)
      : s_(s), out_(out), lse_(lse), ld_(leading_dimension(s.length)), channels_(padded(s.channels)),
        units_(padded(Op::depth(s.channels))),
        few_(s.length < 4 * kLanes && s.length % kLanes <= kFew ? s.length % kLanes : 0),
        columns_(s.length), arena_([this](Arena& arena) { lay_out(arena); }) {}

  void operator()(const WorkItem& p, const WorkItem& next) {
    const auto& strides = s_.qkv_strides;
    prefetch_ = next.offset(strides) - p.offset(strides);
    const T* qkv = static_cast<const T*>(s_.qkv) + p.offset(strides);
    load_rows(qkv + s_.part, strides.token, s_.length, s_.channels, rows_, channels_, prefetch_, s_.scale);
    const Unit* keys = Op::over_columns(rows_, channels_, s_.length, channels_, key_units_, units_);
    load_rows(qkv + 2 * s_.part, strides.token, s_.length, s_.channels, values_, channels_, prefetch_);

    const Rules rules(s_, p, columns_);
    const Unit* values = nullptr;
    if (!few_visible(rules)) {
      transpose_rows(keys, units_, s_.length - few_, Op::depth(s_.channels), keys_, ld_);
      values = Op::over_rows(values_, channels_, s_.length, channels_, values_);
    }
    for (int64_t i = 0; i < s_.length; i += kQueries) block(p, rules, keys, values, i, smaller(kQueries, s_.length - i));
  }

 private:
  static constexpr int64_t kQueries = 24;  // of a block: their scores against 243 keys stay in the first cache
  static constexpr int64_t kFew = 4;       // the seventeenth joint, after a whole vector of them
  // The visible part of the pairs that meet_all would compute, below which meet_visible is faster. Measured at 243 frames
  // and 64 channels: 0.47 where they are drawn at random and 0.42 in a band (AVX2: 0.42 at random), of pairs of bfloat16
  // 0.35 and 0.25; at 16 channels 0.3 and 0.2, at 128 more.
  static constexpr float kFewVisible = Op::kPairs ? 0.25f : 0.4f;

  void lay_out(Arena& arena) {
    rows_ = arena.take(s_.length * channels_), values_ = arena.take((s_.length + 1) * channels_);
    queries_ = arena.take(kQueries * channels_), sums_ = arena.take(kQueries * channels_);
    key_units_ = arena.take(s_.length * units_), query_units_ = arena.take(kQueries * units_);
    keys_ = arena.take(s_.channels * ld_), weights_ = arena.take(kQueries * ld_);
    visible_ = arena.take<uint32_t>(s_.length + kLanes);
    columns_.lay_out(arena);
  }

  void block(const WorkItem& p, const Rules& rules, const Unit* keys, const Unit* values, int64_t first, int64_t count) {
    const auto& strides = s_.qkv_strides;
    load_rows(static_cast<const T*>(s_.qkv) + p.offset(strides, first), strides.token, count, s_.channels, queries_, channels_,
              prefetch_);
    const Unit* queries = Op::over_columns(queries_, channels_, count, channels_, query_units_, units_);
    alignas(64) float tops[padded(kQueries)] = {}, totals[padded(kQueries)] = {};
    if (values) meet_all(rules, queries, keys, values, first, count, tops, totals);
    else meet_visible(rules, queries, keys, first, count, tops, totals);
    store_attended(p, s_.out_strides, first, count, s_.channels, sums_, channels_, totals, tops, out_, lse_);
  }

  // Whether so few pairs are visible that it is cheaper to compute only those. Heads share a mask, and are neighbours.
  bool few_visible(const Rules& rules) {
    if (!s_.bitmask || rules.words(0) == counted_) return few_visible_;
    counted_ = rules.words(0);
    int64_t visible = 0, computed = 0;
    for (int64_t i = 0; i < s_.length; i += kQueries) {
      const int64_t count = smaller(kQueries, s_.length - i);
      rules.choose(columns_, i, count);
      computed += count * columns_.count();
      for (int64_t r = i; r < i + count; ++r) visible += count_bits(rules.words(r), s_.length);
    }
    return few_visible_ = visible < computed * kFewVisible;
  }

  // sums_ = what each query of the block takes of all values, times its total.
  void meet_all(const Rules& rules, const Unit* queries, const Unit* keys, const Unit* values, int64_t first, int64_t count,
                float* tops, float* totals) {
    rules.choose(columns_, first, count);
    columns_.each_run([&](int64_t column, int64_t key, int64_t n) {
      gemm(count, padded(n - few_), Op::depth(s_.channels), queries, units_, 1, Op::of(keys_) + key, ld_,
              weights_ + column, ld_);
    });
    const int64_t whole = s_.length - few_;
    gemm_few_columns(count, few_, units_, queries, units_, keys + whole * units_, units_, weights_ + whole, ld_);
    for (int64_t i = 0; i < count; ++i)
      tops[i] = softmax<Op::kPairs>(rules, first + i, padded(columns_.count()), weights_ + i * ld_, totals + i);
    columns_.each_run([&](int64_t column, int64_t key, int64_t n) {
      gemm(count, channels_, Op::depth(n), Op::of(weights_) + Op::depth(column), ld_, 1,
              values + Op::depth(key) * channels_, channels_, sums_, channels_, column > 0);
    });
  }

  // The same of the values that it sees, one by one.
  void meet_visible(const Rules& rules, const Unit* queries, const Unit* keys, int64_t first, int64_t count, float* tops,
                    float* totals) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t seen = list_bits(rules.words(first + i), s_.length, visible_);
      visible_products(queries + i * units_, keys, units_, units_, visible_, seen, weights_);
      tops[i] = softmax<false>(VisibleRules{rules, visible_, seen}, first + i, padded(seen), weights_, totals + i);
      visible_values(weights_, values_, channels_, channels_, visible_, seen, sums_ + i * channels_);
    }
  }

  const AxialAttention& s_;
  T* out_;
  float* lse_;
  int64_t prefetch_ = 0;  // from a work item's elements to the next one's
  const int64_t ld_, channels_, units_, few_;
  float *rows_, *values_, *queries_, *sums_, *key_units_, *query_units_, *keys_, *weights_;
  uint32_t* visible_;  // the keys that a query sees
  VisibleColumns columns_;
  const uint32_t* counted_ = nullptr;  // the mask that few_visible_ is of
  bool few_visible_ = false;
  const Arena arena_;
};

template <class T, class Unit>
class Backward {
  using Op = Operand<Unit>;

 public:
  Backward(const AxialAttention& s, const AxialAttentionGradient& g)
      : s_(s), g_(g), ld_(leading_dimension(s.length)), channels_(padded(s.channels)),
        units_(padded(Op::depth(s.channels))),
        columns_(s.length), arena_([this](Arena& arena) { lay_out(arena); }) {}

  void operator()(const WorkItem& p, const WorkItem& next) {
    const auto& strides = s_.qkv_strides;
    prefetch_ = next.offset(strides) - p.offset(strides);
    const T* qkv = static_cast<const T*>(s_.qkv) + p.offset(strides);
    load_rows(qkv + s_.part, strides.token, s_.length, s_.channels, keys_, channels_, prefetch_);
    load_rows(qkv + 2 * s_.part, strides.token, s_.length, s_.channels, values_, channels_, prefetch_);
    for (auto [rows, transposed] : {std::make_pair(keys_, keys_t_), std::make_pair(values_, values_t_)}) {
      const Unit* units = Op::over_columns(rows, channels_, s_.length, channels_, key_units_, units_);
      transpose_rows(units, units_, s_.length, Op::depth(s_.channels), transposed, ld_);
    }
    const Unit* keys = Op::over_rows(keys_, channels_, s_.length, channels_, keys_);
    memset(dkeys_, 0, s_.length * channels_ * sizeof(float));
    memset(dvalues_, 0, s_.length * channels_ * sizeof(float));

    const Rules rules(s_, p, columns_);
    for (int64_t i = 0; i < s_.length; i += kQueries) block(p, rules, keys, i, smaller(kQueries, s_.length - i));

    T* dqkv = static_cast<T*>(g_.dqkv) + p.offset(g_.dqkv_strides);
    store_rows(dkeys_, channels_, s_.length, s_.channels, dqkv + g_.part, g_.dqkv_strides.token);
    store_rows(dvalues_, channels_, s_.length, s_.channels, dqkv + 2 * g_.part, g_.dqkv_strides.token);
  }

 private:
  static constexpr int64_t kQueries = 48;  // more than forward: sums over queries are loaded and stored once per block

  void lay_out(Arena& arena) {
    keys_ = arena.take((s_.length + 1) * channels_), values_ = arena.take(s_.length * channels_);
    dkeys_ = arena.take(s_.length * channels_), dvalues_ = arena.take(s_.length * channels_);
    queries_ = arena.take(kQueries * channels_), query_pairs_ = arena.take(kQueries * channels_);
    douts_ = arena.take(kQueries * channels_), dout_pairs_ = arena.take(kQueries * channels_);
    sums_ = arena.take(kQueries * channels_);
    key_units_ = arena.take(s_.length * units_), query_units_ = arena.take(kQueries * units_);
    dout_units_ = arena.take(kQueries * units_);
    keys_t_ = arena.take(s_.channels * ld_), values_t_ = arena.take(s_.channels * ld_);
    weights_ = arena.take(kQueries * ld_), dscores_ = arena.take(kQueries * ld_), dscore_units_ = arena.take(kQueries * ld_);
    columns_.lay_out(arena);
  }

  void block(const WorkItem& p, const Rules& rules, const Unit* keys, int64_t first, int64_t count) {
    const int64_t in = p.offset(s_.qkv_strides, first), out = p.offset(s_.out_strides, first);
    load_rows(static_cast<const T*>(s_.qkv) + in, s_.qkv_strides.token, count, s_.channels, queries_, channels_,
              prefetch_, s_.scale);
    load_rows(static_cast<const T*>(g_.dout) + out, s_.out_strides.token, count, s_.channels, douts_, channels_, 0);
    load_rows(static_cast<const T*>(g_.out) + out, s_.out_strides.token, count, s_.channels, sums_, channels_, 0);
    const Unit* queries = Op::over_columns(queries_, channels_, count, channels_, query_units_, units_);
    const Unit* douts = Op::over_columns(douts_, channels_, count, channels_, dout_units_, units_);
    const int64_t depth = Op::depth(s_.channels);
    rules.choose(columns_, first, count);
    columns_.each_run([&](int64_t column, int64_t key, int64_t n) {
      gemm(count, padded(n), depth, queries, units_, 1, Op::of(keys_t_) + key, ld_, weights_ + column, ld_);
      gemm(count, padded(n), depth, douts, units_, 1, Op::of(values_t_) + key, ld_, dscores_ + column, ld_);
    });
    for (int64_t i = 0; i < count; ++i) {
      vfloat dot = {};
      for (int64_t c = i * channels_; c < (i + 1) * channels_; c += kLanes) dot += load(douts_ + c) * load(sums_ + c);
      const float lse = g_.lse[(out + i * s_.out_strides.token) / s_.channels];
      rules.mask(weights_ + i * ld_, first + i);
      weights_to_gradients(rules, first + i, lse, sum_lanes(dot), weights_ + i * ld_, dscores_ + i * ld_);
    }
    const Unit* dscores = Op::over_columns(dscores_, ld_, count, padded(columns_.count()), dscore_units_, ld_);
    columns_.each_run([&](int64_t column, int64_t key, int64_t n) {
      gemm(count, channels_, Op::depth(n), dscores + Op::depth(column), ld_, 1, keys + Op::depth(key) * channels_,
              channels_, sums_, channels_, column > 0);
    });
    for (int64_t c = 0; c < count * channels_; c += kLanes) store(sums_ + c, load(sums_ + c) * s_.scale);
    store_rows(sums_, channels_, count, s_.channels, static_cast<T*>(g_.dqkv) + p.offset(g_.dqkv_strides, first),
               g_.dqkv_strides.token);
    add_over_queries(weights_, douts_, dout_pairs_, count, dvalues_);
    add_over_queries(dscores_, queries_, query_pairs_, count, dkeys_);
  }

  // sums[key] += what each query of the block gives it: weights (queries, keys) transposed, times rows (queries, channels).
  void add_over_queries(float* weights, const float* rows, float* workspace, int64_t count, float* sums) {
    const Unit* a = Op::over_rows(weights, ld_, count, padded(columns_.count()), weights);
    const Unit* b = Op::over_rows(rows, channels_, count, channels_, workspace);
    columns_.each_run([&](int64_t column, int64_t key, int64_t n) {
      gemm(n, channels_, Op::depth(count), a + column, 1, ld_, b, channels_, sums + key * channels_, channels_, true);
    });
  }

  // Masked scores and dout v^T of one query to the weights that met the values, and the gradients of the scores.
  LIFTER_MEMBER void weights_to_gradients(const Rules& rules, int64_t i, float lse, float dot, float* row, float* drow) const {
    for (int64_t j = 0; j < columns_.count(); j += kLanes) {
      const vfloat dweight = load(drow + j);
      const vfloat weight = weight_of(load(row + j), lse);
      const vfloat factor = rules.drops() ? rules.dropout(i, j) : splat(1.0f);
      store(row + j, weight * factor);
      store(drow + j, weight * (dweight * factor - dot));
    }
  }

  const AxialAttention& s_;
  const AxialAttentionGradient& g_;
  int64_t prefetch_ = 0;  // as in Forward
  const int64_t ld_, channels_, units_;
  float *keys_, *values_, *dkeys_, *dvalues_, *queries_, *query_pairs_, *douts_, *dout_pairs_, *sums_, *key_units_,
      *query_units_, *dout_units_, *keys_t_, *values_t_, *weights_, *dscores_, *dscore_units_;
  VisibleColumns columns_;
  const Arena arena_;
};

}  // namespace

void axial_attention_forward(const AxialAttention& s, void* out, float* lse) {
  with_precision(s.precision, [&](auto t, auto unit) {
    using T = decltype(t);
    each_work_item<Forward<T, decltype(unit)>>(s.batch, s.rows, s.heads, s, static_cast<T*>(out), lse);
  });
}

void axial_attention_backward(const AxialAttention& s, const AxialAttentionGradient& g) {
  with_precision(s.precision, [&](auto t, auto unit) {
    each_work_item<Backward<decltype(t), decltype(unit)>>(s.batch, s.rows, s.heads, s, g);
  });
}

}  // namespace lifter::LIFTER_CAPABILITY
