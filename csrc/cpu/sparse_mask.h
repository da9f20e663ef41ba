// Attention skips what a packed mask hides: the words of keys that no query of a block sees or, where few pairs are visible,
// all but those pairs.
#pragma once
#include "arena.h"
#include "gemm.h"
#include "layout.h"

namespace lifter::LIFTER_CAPABILITY {

// The word of a row of `length` bits that has those from `key` on.
LIFTER_INLINE uint32_t word_at(const uint32_t* words, int64_t key, int64_t length) {
  const uint32_t word = words[key / kWordBits];
  return length - key < kWordBits ? word & ((1u << (length - key)) - 1) : word;
}

LIFTER_INLINE int64_t count_bits(const uint32_t* words, int64_t length) {
  int64_t count = 0;
  for (int64_t key = 0; key < length; key += kWordBits) count += __builtin_popcount(word_at(words, key, length));
  return count;
}

// Which bits are set, in order, then zeros up to a whole vector; returns how many.
LIFTER_INLINE int64_t list_bits(const uint32_t* words, int64_t length, uint32_t* places) {
  int64_t count = 0;
  for (int64_t key = 0; key < length; key += kWordBits) {
    uint32_t word = word_at(words, key, length);
#ifdef __AVX512F__
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int64_t half = key; half < key + kWordBits; half += 16, word >>= 16) {
      const __m512i here = _mm512_add_epi32(_mm512_set1_epi32(half), lanes);
      _mm512_storeu_si512(places + count, _mm512_maskz_compress_epi32(word & 0xffff, here));
      count += __builtin_popcount(word & 0xffff);
    }
#else
    for (; word; word &= word - 1) places[count++] = key + __builtin_ctz(word);
#endif
  }
  memset(places + count, 0, kLanes * sizeof *places);
  return count;
}

// The keys that a block of queries meets, side by side in its rows of scores: all, or the words in which one is visible.
class VisibleColumns {
 public:
  explicit VisibleColumns(int64_t length) : length_(length), count_(length) {}
  void lay_out(Arena& arena) { first_ = arena.take<uint32_t>((length_ + kWordBits - 1) / kWordBits); }

  // By `rows` rows of a packed mask, `stride` words apart; where there is nothing to see, the first word.
  void choose(const uint32_t* mask, int64_t stride, int64_t rows) {
    words_ = 0;
    for (int64_t key = 0; key < length_; key += kWordBits) {
      uint32_t seen = 0;
      for (int64_t i = 0; i < rows; ++i) seen |= mask[key / kWordBits + i * stride];
      if (word_at(&seen, 0, length_ - key)) first_[words_++] = key;
    }
    if (!words_) first_[words_++] = 0;
    count_ = (words_ - 1) * kWordBits + smaller(kWordBits, length_ - first_[words_ - 1]);
  }

  int64_t count() const { return count_; }
  // The key of a column that starts a vector.
  LIFTER_MEMBER int64_t key(int64_t column) const { return words_ ? first_[column / kWordBits] + column % kWordBits : column; }

  // f(column, key, count) for every run of neighbouring keys.
  template <class F>
  void each_run(const F& f) const {
    if (!words_) return f(0, 0, length_);
    for (int64_t n = 0, begin; n < words_;) {
      for (begin = n++; n < words_ && first_[n] == first_[n - 1] + kWordBits;) ++n;
      f(begin * kWordBits, first_[begin], smaller(first_[n - 1] + kWordBits, length_) - first_[begin]);
    }
  }

 private:
  const int64_t length_;
  int64_t count_, words_ = 0;  // no words: all keys
  uint32_t* first_ = nullptr;  // the first key of every word
};

template <class Unit, int V>
LIFTER_INLINE void add_products(const Unit* query, const Unit* keys, int64_t ld, const uint32_t* places, vfloat* sums) {
  vfloat q[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) q[v] = load(query + v * kLanes);
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[r] = multiply_add(query, q[v], load(keys + places[r] * ld + v * kLanes), sums[r]);
}

// out[n] = query . keys[places[n]], of rows of `depth` units, whole vectors; up to a whole vector of places too.
template <class Unit>
static void visible_products(const Unit* query, const Unit* keys, int64_t ld, int64_t depth, const uint32_t* places,
                             int64_t count, float* out) {
  for (int64_t n = 0; n < count; n += kLanes) {
    vfloat sums[kLanes] = {};
    int64_t k = 0;
    for (; k + 4 * kLanes <= depth; k += 4 * kLanes) add_products<Unit, 4>(query + k, keys + k, ld, places + n, sums);
    for (; k < depth; k += kLanes) add_products<Unit, 1>(query + k, keys + k, ld, places + n, sums);
    store(out + n, sum_rows(sums));
  }
}

template <int V>
LIFTER_INLINE void add_values(const float* weights, const float* values, int64_t ld, const uint32_t* places, int64_t count,
                              float* out) {
  vfloat sums[V] = {};
  for (int64_t n = 0; n < count; ++n) {
    const vfloat weight = splat(weights[n]);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[v] += weight * load(values + places[n] * ld + v * kLanes);
  }
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) store(out + v * kLanes, sums[v]);
}

// out = the sum of weights[n] * values[places[n]], of rows of `channels` floats, whole vectors.
static void visible_values(const float* weights, const float* values, int64_t ld, int64_t channels, const uint32_t* places,
                           int64_t count, float* out) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes) add_values<4>(weights, values + c, ld, places, count, out + c);
  for (; c < channels; c += kLanes) add_values<1>(weights, values + c, ld, places, count, out + c);
}

}  // namespace lifter::LIFTER_CAPABILITY
