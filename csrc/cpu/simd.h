// Vectors of float for the capability that this file is compiled for, through the compiler's vector extensions: the
// same source is SSE2, AVX2, AVX-512 or NEON code. No std containers or algorithms here or in the kernels: a weak symbol
// compiled for AVX-512 must never be the copy that the linker keeps for an older machine.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>
#ifdef __SSE__
#include <immintrin.h>
#endif

#define LIFTER_MEMBER inline __attribute__((always_inline))
#define LIFTER_INLINE static LIFTER_MEMBER
#define LIFTER_LAMBDA __attribute__((always_inline))

namespace lifter::LIFTER_CAPABILITY {

LIFTER_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
LIFTER_INLINE int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// Up to a whole number of vectors.
constexpr int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

typedef float vfloat __attribute__((vector_size(kLanes * 4)));
typedef int32_t vint __attribute__((vector_size(kLanes * 4)));
typedef uint32_t vuint __attribute__((vector_size(kLanes * 4)));
typedef uint16_t vshort __attribute__((vector_size(kLanes * 2)));

struct bfloat16 {
  uint16_t bits;
};

LIFTER_INLINE vfloat splat(float x) { return x - vfloat{}; }

// Not memcpy, which may alias all there is: a loop would load its pointers anew after every store.
typedef float vfloat_unaligned __attribute__((vector_size(kLanes * 4), aligned(4)));
LIFTER_INLINE vfloat load(const float* p) { return *reinterpret_cast<const vfloat_unaligned*>(p); }
LIFTER_INLINE vuint load(const uint32_t* p) { return (vuint)load(reinterpret_cast<const float*>(p)); }
LIFTER_INLINE void store(float* p, vfloat v) { *reinterpret_cast<vfloat_unaligned*>(p) = v; }

LIFTER_INLINE vfloat load(const bfloat16* p) {
#ifdef __AVX512F__  // GCC 12 would widen two halves and put them together
  const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return (vfloat)_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16);
#else
  vshort h;
  memcpy(&h, p, sizeof h);
  return (vfloat)(__builtin_convertvector(h, vuint) << 16);
#endif
}

// Rounds to nearest even; a NaN stays one.
LIFTER_INLINE void store(bfloat16* p, vfloat v) {
  const vuint bits = (vuint)v;
  vuint rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  rounded = v == v ? rounded : (bits >> 16 | 0x40);
  const vshort h = __builtin_convertvector(rounded, vshort);
  memcpy(p, &h, sizeof h);
}

LIFTER_INLINE float load1(const float* p) { return *p; }
LIFTER_INLINE float load1(const bfloat16* p) {
  const uint32_t bits = static_cast<uint32_t>(p->bits) << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
LIFTER_INLINE void store1(float* p, float x) { *p = x; }
LIFTER_INLINE void store1(bfloat16* p, float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  p->bits = static_cast<uint16_t>(x == x ? (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 : (bits >> 16 | 0x40));
}

// The first `count` lanes, the others zero.
template <class T>
LIFTER_INLINE vfloat load_some(const T* p, int64_t count) {
  if (count >= kLanes) return load(p);
#ifdef __AVX512F__
  const uint32_t mask = (1u << count) - 1;
  if constexpr (sizeof(T) == 4) return (vfloat)_mm512_maskz_loadu_ps(mask, p);
  return (vfloat)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p)), 16);
#else
  float x[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) x[i] = load1(p + i);
  return load(x);
#endif
}

// All bits of the lanes of the first `count` that are true, none of the others.
LIFTER_INLINE vint load_some(const bool* p, int64_t count) {
#ifdef __AVX512F__
  return (vint)_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(count < kLanes ? (1u << count) - 1 : 0xffff, p)) != 0;
#else
  bool some[kLanes] = {};
  if (count < kLanes) {
    for (int64_t i = 0; i < count; ++i) some[i] = p[i];
    p = some;
  }
#ifdef __AVX2__
  return (vint)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))) != 0;  // GCC has no such conversion
#else
  uint8_t flags __attribute__((vector_size(kLanes)));
  memcpy(&flags, p, sizeof flags);
  return __builtin_convertvector(flags, vint) != 0;
#endif
#endif
}

template <class T>
LIFTER_INLINE void store_some(T* p, vfloat v, int64_t count) {
  if (count >= kLanes) return store(p, v);
#ifdef __AVX512F__
  if constexpr (sizeof(T) == 4) return _mm512_mask_storeu_ps(p, (1u << count) - 1, (__m512)v);
#endif
  for (int64_t i = 0; i < count; ++i) store1(p + i, v[i]);
}

LIFTER_INLINE vfloat vmax(vfloat a, vfloat b) { return a > b ? a : b; }
LIFTER_INLINE vfloat vmin(vfloat a, vfloat b) { return a < b ? a : b; }
LIFTER_INLINE vfloat vabs(vfloat a) { return (vfloat)((vint)a & 0x7fffffff); }

// A bit of every lane of a mask.
LIFTER_INLINE uint32_t lane_bits(vint mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__AVX2__)
  return _mm256_movemask_ps((__m256)mask);
#elif defined(__SSE__)
  return _mm_movemask_ps((__m128)mask);
#else
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= (mask[i] & 1u) << i;
  return bits;
#endif
}

LIFTER_INLINE bool any(vint mask) { return lane_bits(mask) != 0; }

// e^r for |r| <= ln(2) / 2, relative error 9e-8 before rounding (minimax, exact at 0).
LIFTER_INLINE vfloat exp_fraction(vfloat r) {
  vfloat p = r * 8.290315046e-3f + 4.189793020e-2f;
  p = p * r + 1.666763573e-1f;
  p = p * r + 4.999915063e-1f;
  p = p * r + 9.999997019e-1f;
  return p * r + 1.0f;
}

constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which is then in the low bits
constexpr float kLog2e = 1.44269504f;
constexpr float kLn2 = 0.693147181f;
constexpr float kSmallExponent = 87.0f;

// e^x for |x| <= kSmallExponent; something finite or not beyond.
LIFTER_INLINE vfloat exp_small(vfloat x) {
  const vfloat shifted = x * kLog2e + kRound;
  return (vfloat)((vuint)exp_fraction(x - (shifted - kRound) * kLn2) + ((vuint)shifted << 23));
}

// e^x for every x: infinite above, zero below; NaN stays NaN.
LIFTER_INLINE vfloat exp_any(vfloat x) {
  const vfloat clamped = vmin(vmax(x, splat(-110.0f)), splat(110.0f));
  const vfloat shifted = clamped * kLog2e + kRound;
  const vint n = (vint)shifted - (vint)splat(kRound);
  const vint half = n >> 1;  // 2^n in two factors: it may be out of range where e^x is not
  const vfloat p = exp_fraction(clamped - (shifted - kRound) * kLn2);
  const vfloat y = p * (vfloat)((half + 127) << 23) * (vfloat)((n - half + 127) << 23);
  return x == x ? y : x;
}

// e^x for x <= 0; below -87, where it is 1e-38, it stays that.
LIFTER_INLINE vfloat exp_negative(vfloat x) { return exp_small(vmax(splat(-kSmallExponent), x)); }

LIFTER_INLINE vfloat sigmoid(vfloat x) {
  return 1.0f / (1.0f + exp_any(-x));
}

// 1 / x for normal x whose inverse is normal too, within a unit in the last place.
LIFTER_INLINE vfloat reciprocal(vfloat x) {
#ifdef __AVX512F__  // one step of Newton's method after 14 bits: a third of a division
  const vfloat r = (vfloat)_mm512_rcp14_ps((__m512)x);
  return r + r * (1.0f - x * r);
#else
  return 1.0f / x;
#endif
}

// x Phi(x), Phi the distribution function of the normal distribution (GELU): max(x, 0) - a Phi(-a) for a = |x|, and log2 of
// Phi(-a) by a polynomial on [0, 6] (minimax of the result); beyond, a Phi(-a) stays 6e-9. Absolute error 7e-8.
LIFTER_INLINE vfloat gelu(vfloat x) {
  const vfloat a = vmin(splat(6.0f), vabs(x));
  vfloat p = a * 4.278761087e-6f - 1.279840178e-5f;
  p = p * a - 5.757853766e-4f;
  p = p * a + 7.670781854e-3f;
  p = p * a - 5.294856225e-2f;
  p = p * a - 4.590439308e-1f;
  p = p * a - 1.151126928f;
  p = p * a - 1.0f;
  const vfloat shifted = p + kRound;
  const vfloat tail = (vfloat)((vuint)exp_fraction((p - (shifted - kRound)) * kLn2) + ((vuint)shifted << 23));
  return vmax(vfloat{}, x) - a * tail;
}

// log(1 + e^x) = max(x, 0) + log(1 + t), t = e^-|x|, the last by a polynomial on [0, 1] that is exact at 0: no
// cancellation, so small results keep their digits. max is written so that NaN passes.
LIFTER_INLINE vfloat softplus(vfloat x) {
  const vfloat t = exp_negative((vfloat)((vint)x | INT32_MIN));
  vfloat p = t * 5.364820827e-3f - 3.006577864e-2f;
  p = p * t + 7.920451462e-2f;
  p = p * t - 1.375380009e-1f;
  p = p * t + 1.915365458e-1f;
  p = p * t - 2.485716343e-1f;
  p = p * t + 3.332132399e-1f;
  p = p * t - 4.999964833e-1f;
  p = p * t + 1.0f;
  return vmax(vfloat{}, x) + t * p;
}

// log(x) for normal x > 0: x = 2^n m, m in [sqrt(1/2), sqrt(2)), and log(m) = 2 atanh((m - 1) / (m + 1)).
LIFTER_INLINE vfloat log_positive(vfloat x) {
  const vint n = ((vint)x - 0x3f3504f3) >> 23;  // 0x3f3504f3 is sqrt(1/2)
  const vfloat m = (vfloat)((vint)x - (n << 23));
  const vfloat s = (m - 1.0f) / (m + 1.0f), z = s * s;
  vfloat p = z * 0.222222222f + 0.285714286f;
  p = p * z + 0.4f;
  p = p * z + 0.666666667f;
  return __builtin_convertvector(n, vfloat) * kLn2 + (s * 2.0f + s * z * p);
}

// Transposes a square of kLanes vectors: at stage S the off-diagonal S x S squares of every 2S x 2S one change places.
#if defined(__clang__) || __GNUC__ >= 12
#define LIFTER_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define LIFTER_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, vint{__VA_ARGS__})
#endif

template <int S, int... J>
LIFTER_INLINE void transpose_stage(vfloat* r, std::integer_sequence<int, J...>) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & S) continue;
    const vfloat a = r[i], b = r[i + S];
    r[i] = LIFTER_SHUFFLE(a, b, (J & S ? J - S + kLanes : J)...);
    r[i + S] = LIFTER_SHUFFLE(a, b, (J & S ? J + kLanes : J + S)...);
  }
}

LIFTER_INLINE void transpose(vfloat* r) {
  using lanes = std::make_integer_sequence<int, kLanes>;
  transpose_stage<1>(r, lanes());
  transpose_stage<2>(r, lanes());
  if constexpr (kLanes > 4) transpose_stage<4>(r, lanes());
  if constexpr (kLanes > 8) transpose_stage<8>(r, lanes());
}

template <int S, int... J>
LIFTER_INLINE void fold_rows(vfloat* r, std::integer_sequence<int, J...>) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 2 * S) {
    const vfloat a = r[i], b = r[i + S];
    r[i] = LIFTER_SHUFFLE(a, b, (J & S ? J - S + kLanes : J)...) + LIFTER_SHUFFLE(a, b, (J & S ? J + kLanes : J + S)...);
  }
}

// Lane i is the sum of the lanes of r[i], as of a square that is transposed and summed, but in half the moves.
LIFTER_INLINE vfloat sum_rows(vfloat* r) {
  using lanes = std::make_integer_sequence<int, kLanes>;
  fold_rows<1>(r, lanes());
  fold_rows<2>(r, lanes());
  if constexpr (kLanes > 4) fold_rows<4>(r, lanes());
  if constexpr (kLanes > 8) fold_rows<8>(r, lanes());
  return r[0];
}

template <int... J>
LIFTER_INLINE vfloat swap_pairs(vfloat v, std::integer_sequence<int, J...>) {
  return LIFTER_SHUFFLE(v, v, (J ^ 1)...);
}
LIFTER_INLINE vfloat swap_pairs(vfloat v) { return swap_pairs(v, std::make_integer_sequence<int, kLanes>()); }

// The largest lane and the sum of all lanes, by halving.
template <class F, int... J>
LIFTER_INLINE float fold_lanes(vfloat v, const F& f, std::integer_sequence<int, J...>) {
  v = f(v, (vfloat)LIFTER_SHUFFLE(v, v, (J ^ 1)...));
  v = f(v, (vfloat)LIFTER_SHUFFLE(v, v, (J ^ 2)...));
  if constexpr (kLanes > 4) v = f(v, (vfloat)LIFTER_SHUFFLE(v, v, (J ^ 4)...));
  if constexpr (kLanes > 8) v = f(v, (vfloat)LIFTER_SHUFFLE(v, v, (J ^ 8)...));
  return v[0];
}

LIFTER_INLINE float max_lanes(vfloat v) {
  return fold_lanes(v, [](vfloat a, vfloat b) { return vmax(a, b); }, std::make_integer_sequence<int, kLanes>());
}

LIFTER_INLINE float sum_lanes(vfloat v) {
  return fold_lanes(v, [](vfloat a, vfloat b) { return a + b; }, std::make_integer_sequence<int, kLanes>());
}

// Results below 1e-38 become zero inside a kernel: a decaying state would else spend microcode on every denormal.
class FlushDenormals {
 public:
#ifdef __SSE__
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(saved_ | uint64_t{1} << 24));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#else
  ~FlushDenormals() {}
#endif
};

}  // namespace lifter::LIFTER_CAPABILITY
