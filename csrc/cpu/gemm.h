// Products of the small matrices that attention and retention are made of, and how their operands are packed.
#pragma once
#include <type_traits>

#include "layout.h"
#include "simd.h"

namespace lifter::LIFTER_CAPABILITY {

// Two neighbouring bfloat16 along the summed dimension: the operand of AVX-512's dot product, as large as a float, so
// that one code multiplies either.
struct Pair {
  uint32_t bits;
};

LIFTER_INLINE vfloat broadcast(const float* p) { return splat(*p); }
LIFTER_INLINE vfloat broadcast(const Pair* p) { return (vfloat)((vuint{}) + p->bits); }
LIFTER_INLINE vfloat load(const Pair* p) { return load(reinterpret_cast<const float*>(p)); }

LIFTER_INLINE vfloat multiply_add(const float*, vfloat a, vfloat b, vfloat sum) { return a * b + sum; }
#ifdef __AVX512F__
// Assembler, so that only a machine that has the instruction is asked for it: see capability().
LIFTER_INLINE vfloat multiply_add(const Pair*, vfloat a, vfloat b, vfloat sum) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}
#else
LIFTER_INLINE vfloat multiply_add(const Pair*, vfloat, vfloat, vfloat sum) { return sum; }  // never called
#endif

// Calls f(T(), Unit()) with the types of what is in memory and what is multiplied.
template <class F>
LIFTER_INLINE void with_precision(Precision precision, const F& f) {
  switch (precision) {
    case Precision::float32: return f(float(), float());
    case Precision::bfloat16: return f(bfloat16(), float());
    case Precision::bfloat16_pairs: return f(bfloat16(), Pair());
  }
}

constexpr int kTileRows = 6;
constexpr int kTileVectors = kLanes == 16 ? 4 : 2;  // 24 or 12 sums, of 32 or 16 registers

// The distance of rows of `n` floats: an odd number of vectors, since rows a power of two apart fall on the same few lines
// of the first cache.
constexpr int64_t leading_dimension(int64_t n) { return padded(n) / kLanes % 2 ? padded(n) : padded(n) + kLanes; }

template <class Unit, int M, int V>
static void gemm_tile(int64_t depth, const Unit* a, int64_t a_row, int64_t a_col, const Unit* b, int64_t ldb, float* c,
                      int64_t ldc, bool accumulate) {
  vfloat sums[M][V];
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) sums[i][j] = accumulate ? load(c + i * ldc + j * kLanes) : vfloat{};
  for (int64_t k = 0; k < depth; ++k, a += a_col, b += ldb) {
    vfloat row[V];
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) row[j] = load(b + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const vfloat x = broadcast(a + i * a_row);
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) sums[i][j] = multiply_add(a, x, row[j], sums[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) store(c + i * ldc + j * kLanes, sums[i][j]);
}

template <class Unit, int V>
static void gemm_panel(int64_t rows, int64_t depth, const Unit* a, int64_t a_row, int64_t a_col, const Unit* b, int64_t ldb,
                       float* c, int64_t ldc, bool accumulate) {
  for (; rows >= kTileRows; rows -= kTileRows, a += kTileRows * a_row, c += kTileRows * ldc)
    gemm_tile<Unit, kTileRows, V>(depth, a, a_row, a_col, b, ldb, c, ldc, accumulate);
  switch (rows) {
    case 5: return gemm_tile<Unit, 5, V>(depth, a, a_row, a_col, b, ldb, c, ldc, accumulate);
    case 4: return gemm_tile<Unit, 4, V>(depth, a, a_row, a_col, b, ldb, c, ldc, accumulate);
    case 3: return gemm_tile<Unit, 3, V>(depth, a, a_row, a_col, b, ldb, c, ldc, accumulate);
    case 2: return gemm_tile<Unit, 2, V>(depth, a, a_row, a_col, b, ldb, c, ldc, accumulate);
    case 1: return gemm_tile<Unit, 1, V>(depth, a, a_row, a_col, b, ldb, c, ldc, accumulate);
  }
}

// c[rows][cols] = a b, or += if `accumulate`. a(i, k) = a[i * a_row + k * a_col]; b is [depth][cols] with rows `ldb` apart;
// cols is a multiple of kLanes.
template <class Unit>
static void gemm(int64_t rows, int64_t cols, int64_t depth, const Unit* a, int64_t a_row, int64_t a_col, const Unit* b,
                 int64_t ldb, float* c, int64_t ldc, bool accumulate = false) {
  int64_t j = 0;
  for (; j + kTileVectors * kLanes <= cols; j += kTileVectors * kLanes)
    gemm_panel<Unit, kTileVectors>(rows, depth, a, a_row, a_col, b + j, ldb, c + j, ldc, accumulate);
  if constexpr (kTileVectors > 2)
    for (; j + 2 * kLanes <= cols; j += 2 * kLanes)
      gemm_panel<Unit, 2>(rows, depth, a, a_row, a_col, b + j, ldb, c + j, ldc, accumulate);
  for (; j < cols; j += kLanes) gemm_panel<Unit, 1>(rows, depth, a, a_row, a_col, b + j, ldb, c + j, ldc, accumulate);
}

// c[rows][few] = a b^T for rows of units that are whole vectors: for a few columns, where `gemm` would waste most lanes.
template <class Unit>
static void gemm_few_columns(int64_t rows, int64_t few, int64_t depth, const Unit* a, int64_t lda, const Unit* b, int64_t ldb,
                             float* c, int64_t ldc) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < few; ++j) {
      vfloat sum = {};
      for (int64_t k = 0; k < depth; k += kLanes) sum = multiply_add(a, load(a + i * lda + k), load(b + j * ldb + k), sum);
      c[i * ldc + j] = sum_lanes(sum);
    }
}

// Rows of floats from a strided tensor, times `scale`; the columns from `cols` to the next multiple of kLanes are zero.
// The same rows `prefetch` elements on are fetched: the pieces are too short for the hardware to see what comes next.
template <class T>
static void load_rows(const T* p, int64_t stride, int64_t rows, int64_t cols, float* out, int64_t ld, int64_t prefetch,
                      float scale = 1) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < rows; ++i, p += stride, out += ld) {
    if (prefetch)
      for (int64_t j = 0; j < cols; j += kLine) __builtin_prefetch(p + prefetch + j, 0, 2);
    int64_t j = 0;
    for (; j + kLanes <= cols; j += kLanes) store(out + j, load(p + j) * scale);
    if (j < cols) store(out + j, load_some(p + j, cols - j) * scale);
  }
}

template <class T>
static void store_rows(const float* rows_, int64_t ld, int64_t rows, int64_t cols, T* p, int64_t stride) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; j += kLanes) store_some(p + i * stride + j, load(rows_ + i * ld + j), cols - j);
}

// out[j][i] = in[i][j] for 32-bit units; columns of out from `rows` to the next multiple of kLanes are zero. `in` has
// whole vectors.
template <class Unit>
static void transpose_rows(const Unit* in, int64_t ld_in, int64_t rows, int64_t cols, float* out, int64_t ld_out) {
  for (int64_t i = 0; i < rows; i += kLanes)
    for (int64_t j = 0; j < cols; j += kLanes) {
      vfloat square[kLanes];
      for (int64_t r = 0; r < kLanes; ++r) square[r] = i + r < rows ? load(in + (i + r) * ld_in + j) : vfloat{};
      transpose(square);
      for (int64_t r = 0; r < smaller(kLanes, cols - j); ++r) store(out + (j + r) * ld_out + i, square[r]);
    }
}

// The bits of floats whose upper halves are the nearest bfloat16.
LIFTER_INLINE vuint rounded(vuint bits) { return bits + 0x7fffu + ((bits >> 16) & 1u); }

#ifdef __AVX512F__
// 32 floats to 16 pairs of neighbours, rounded to nearest even.
LIFTER_INLINE vfloat to_pairs(vfloat low, vfloat high) {
  vfloat pairs;
  asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(pairs) : "v"(low), "v"(high));
  return pairs;
}
#else
LIFTER_INLINE vfloat to_pairs(vfloat low, vfloat) { return low; }  // never called
#endif

// The first `count` lanes as bfloat16 rounded to nearest even.
#ifdef __AVX512F__
LIFTER_INLINE void store_rounded(bfloat16* p, vfloat v, int64_t count) {
  __m256i rounded;
  asm("vcvtneps2bf16 %1, %0" : "=v"(rounded) : "v"(v));
  _mm256_mask_storeu_epi16(p, count < kLanes ? (1u << count) - 1 : 0xffff, rounded);
}
#else
LIFTER_INLINE void store_rounded(bfloat16*, vfloat, int64_t) {}  // never called
#endif
LIFTER_INLINE void store_rounded(float* p, vfloat v, int64_t count) { store_some(p, v, count); }

// Rows of floats to rows of pairs of neighbouring columns; both have whole vectors.
static void pair_columns(const float* in, int64_t ld_in, int64_t rows, int64_t cols, float* out, int64_t ld_out) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; j += 2 * kLanes) {
      const vfloat low = load(in + i * ld_in + j), high = j + kLanes < cols ? load(in + i * ld_in + j + kLanes) : vfloat{};
      store(out + i * ld_out + j / 2, to_pairs(low, high));
    }
}

// Rows of floats to rows of pairs (2i, 2i + 1); `out` may be `in`.
static void pair_rows(const float* in, int64_t ld, int64_t rows, int64_t cols, float* out) {
  for (int64_t i = 0; i < rows; i += 2)
    for (int64_t j = 0; j < cols; j += kLanes) {
      const vuint even = rounded((vuint)load(in + i * ld + j));
      const vuint odd = i + 1 < rows ? rounded((vuint)load(in + (i + 1) * ld + j)) : vuint{};
      store(out + i / 2 * ld + j, (vfloat)(even >> 16 | (odd & 0xffff0000u)));
    }
}

// The operand of a product in `Unit`: the depth of a sum over n, and rows of floats as an operand, which are converted into
// `workspace` unless they are floats already.
template <class Unit>
struct Operand {
  static constexpr bool kPairs = !std::is_same<Unit, float>::value;

  static int64_t depth(int64_t n) { return kPairs ? (n + 1) / 2 : n; }
  static const Unit* of(const float* units) { return reinterpret_cast<const Unit*>(units); }

  // Summed over the columns; the rows of `workspace` are `ld_workspace` apart, for floats as far as those of `rows`.
  static const Unit* over_columns(const float* rows, int64_t ld, int64_t count, int64_t cols, float* workspace,
                                  int64_t ld_workspace) {
    if (!kPairs) return of(rows);
    pair_columns(rows, ld, count, cols, workspace, ld_workspace);
    return of(workspace);
  }

  // Summed over the rows.
  static const Unit* over_rows(const float* rows, int64_t ld, int64_t count, int64_t cols, float* workspace) {
    if (!kPairs) return of(rows);
    pair_rows(rows, ld, count, cols, workspace);
    return of(workspace);
  }
};

}  // namespace lifter::LIFTER_CAPABILITY
