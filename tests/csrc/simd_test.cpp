// Tests csrc/cpu/simd.h for one capability: prints a line for every check and fails if one does.
//
//   simd_test [STRIDE]    functions of a float see every STRIDE-th of the 2^32 floats: 1 is all of them, for minutes
#include "../../csrc/cpu/simd.h"

#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

namespace lifter {
namespace {

using namespace LIFTER_CAPABILITY;

constexpr double kInfinity = INFINITY;
// x - n ln(2), n = x / ln(2), is off by the rounding of ln(2), and without fused multiplication by that of the product.
// The largest error of gelu over all floats is then 2.08, at 0.80390799.
#ifdef __FP_FAST_FMAF
constexpr double kExpUlps = 6, kGeluUlps = 2;
#else
constexpr double kExpUlps = 72, kGeluUlps = 2.5;
#endif

int failures = 0;

void check(bool passed, const char* what) {
  printf("%-16s %s\n", what, passed ? "exact" : "FAILED");
  failures += !passed;
}

float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

uint32_t to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

bool same(float a, float b) { return to_bits(a) == to_bits(b); }

// ---- functions of a float --------------------------------------------------------------------------------------------

// The distance of floats that are as large as `x`.
double ulp(double x) { return std::ldexp(1.0, x == 0 ? -149 : std::max(std::ilogb(x), -126) - 23); }

struct Function {
  const char* name;
  vfloat (*computed)(vfloat);
  double (*exact)(double);
  double low, high;          // the arguments that it is for
  double ulps, absolute;     // an error is within the first, or within the second
  bool keeps_nan;
};

const double kTiny = std::numeric_limits<float>::min();

const Function kFunctions[] = {
    {"exp_small", [](vfloat x) { return exp_small(x); }, std::exp, -kSmallExponent, kSmallExponent, kExpUlps, 0, false},
    {"exp_negative", [](vfloat x) { return exp_negative(x); }, std::exp, -kInfinity, 0, kExpUlps, 1.7e-38, false},
    {"exp_any", [](vfloat x) { return exp_any(x); }, std::exp, -kInfinity, kInfinity, kExpUlps, 0, true},
    {"sigmoid", [](vfloat x) { return sigmoid(x); }, [](double x) { return 1 / (1 + std::exp(-x)); }, -kInfinity, kInfinity,
     kExpUlps, kTiny, true},
    {"reciprocal", [](vfloat x) { return reciprocal(x); }, [](double x) { return 1 / x; }, 1.2e-38, 8.5e37, 1, 0, true},
    {"gelu", [](vfloat x) { return gelu(x); }, [](double x) { return std::isinf(x) && x < 0 ? 0 : x * 0.5 * std::erfc(-x * std::sqrt(0.5)); },
     -kInfinity, kInfinity, kGeluUlps, 1.2e-7, false},
    {"softplus", [](vfloat x) { return softplus(x); }, [](double x) { return std::log1p(std::exp(-std::fabs(x))) + std::fmax(x, 0); },
     -kInfinity, kInfinity, kExpUlps, 1.7e-38, true},
    {"log_positive", [](vfloat x) { return log_positive(x); }, std::log, kTiny, std::numeric_limits<float>::max(), 4, 0, false},
};

class Errors {
 public:
  explicit Errors(const Function& f) : f_(f) {}

  void add(uint32_t bits) {
    const float x = from_bits(bits);
    if (std::isnan(x) ? f_.keeps_nan : f_.low <= x && x <= f_.high) x_[count_++] = x;
    if (count_ == kLanes) flush();
  }

  void flush() {
    for (int i = count_; i < kLanes; ++i) x_[i] = 1;
    float y[kLanes];
    store(y, f_.computed(load(x_)));
    for (int i = 0; i < count_; ++i) compare(x_[i], y[i]);
    seen_ += count_, count_ = 0;
  }

  void report() {
    flush();
    printf("%-16s %5.2f ulp at %-14.8g absolute %.2g at %-14.8g of %lld floats%s\n", f_.name, worst_ulps_, worst_at_, worst_,
           absolute_at_, static_cast<long long>(seen_), wrong_ ? " FAILED" : "");
    failures += wrong_ > 0;
  }

 private:
  void compare(float x, float y) {
    if (std::isnan(x) || std::isnan(y)) return fail(x, y, std::isnan(x) && std::isnan(y));
    constexpr double kBeyond = 0x1p128;  // what a float's infinity stands for
    const auto finite = [](double v) { return v > kBeyond ? kBeyond : v < -kBeyond ? -kBeyond : v; };
    const double exact = finite(f_.exact(x)), error = std::fabs(finite(y) - exact), ulps = error / ulp(std::fmin(exact, 0x1p127));
    if (error > f_.absolute && ulps > worst_ulps_) worst_ulps_ = ulps, worst_at_ = x;
    if (std::fabs(exact) < 1 && error > worst_) worst_ = error, absolute_at_ = x;
    fail(x, y, ulps <= f_.ulps || error <= f_.absolute);
  }

  void fail(float x, float y, bool passed) {
    if (!passed && wrong_++ < 3) printf("%s(%.9g) is %.9g, expected %.9g\n", f_.name, x, y, f_.exact(x));
  }

  const Function& f_;
  float x_[kLanes];
  int count_ = 0;
  int64_t seen_ = 0, wrong_ = 0;
  double worst_ulps_ = 0, worst_at_ = 0, worst_ = 0, absolute_at_ = 0;
};

void test_functions(uint64_t stride) {
  for (const Function& f : kFunctions) {
    Errors errors(f);
    for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += stride) errors.add(static_cast<uint32_t>(bits));
    // A sample may miss the first and last floats of every exponent (zero, infinity and NaN among them), and those about the
    // arguments at which a function changes, and gelu's worst.
    for (uint32_t high = 0; high < 512; ++high)
      for (int32_t low = -2; low <= 2; ++low) errors.add((high << 23) + low);
    for (float edge : {0.5f, 0.6931472f, 0.70710678f, 0.80390799f, 6.0f, 87.0f, 87.336545f, 88.722839f, 103.97208f, 110.0f})
      for (int32_t near = -64; near <= 64; ++near)
        for (uint32_t sign : {0u, 1u << 31}) errors.add((to_bits(edge) + near) | sign);
    errors.report();
  }
}

// ---- bfloat16 --------------------------------------------------------------------------------------------------------

// The nearest of the two bfloat16 about `x`, of equally near ones the even one.
uint16_t nearest(float x) {
  const uint32_t bits = to_bits(x);
  if (std::isnan(x)) return (bits >> 16) | 0x40;
  const uint16_t down = bits >> 16, up = down + 1;
  const auto value = [](uint16_t b) {  // what follows the largest finite number is one step further
    return (b & 0x7fff) == 0x7f80 ? std::copysign(0x1p128, b >> 15 ? -1.0 : 1.0) : double{from_bits(uint32_t{b} << 16)};
  };
  if (std::isinf(x)) return down;
  const double below = std::fabs(x - value(down)), above = std::fabs(value(up) - x);
  return below < above || (below == above && down % 2 == 0) ? down : up;
}

void test_bfloat16(uint64_t stride) {
  bool widened = true, rounded = true;
  for (uint32_t first = 0; first < 1 << 16; first += kLanes) {
    bfloat16 narrow[kLanes];
    float wide[kLanes];
    for (int i = 0; i < kLanes; ++i) narrow[i].bits = first + i;
    store(wide, load(narrow));
    for (int i = 0; i < kLanes; ++i) {
      widened &= to_bits(wide[i]) == (first + i) << 16 && same(load1(narrow + i), wide[i]);
      // Back, with what is about the half between two neighbours.
      for (uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
        bfloat16 one, all[kLanes];
        const float x = from_bits((first + i) << 16 | low);
        store1(&one, x), store(all, splat(x));
        rounded &= one.bits == nearest(x) && all[0].bits == one.bits && all[kLanes - 1].bits == one.bits;
      }
    }
  }
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += kLanes * stride) {
    float x[kLanes];
    bfloat16 y[kLanes];
    for (int i = 0; i < kLanes; ++i) x[i] = from_bits(static_cast<uint32_t>(bits + i * stride));
    store(y, load(x));
    for (int i = 0; i < kLanes; ++i) rounded &= y[i].bits == nearest(x[i]);
  }
  check(widened, "from bfloat16");
  check(rounded, "to bfloat16");
}

// ---- lanes -----------------------------------------------------------------------------------------------------------

vfloat numbered(float first) {
  vfloat v;
  for (int i = 0; i < kLanes; ++i) v[i] = first + i;
  return v;
}

template <class T>
void test_some(const char* what) {
  bool passed = true;
  for (int count = 0; count <= kLanes + 1; ++count) {
    // Behind the end of the array nothing may be read or written: a sanitizer build sees the first, the last element the other.
    std::vector<T> from(count), to(count + 1);
    for (int i = 0; i < count; ++i) store1(&from[i], i + 1);
    store1(&to[count], -7);
    const vfloat v = load_some(from.data(), count);
    for (int i = 0; i < kLanes; ++i) passed &= v[i] == (i < count ? i + 1 : 0);
    store_some(to.data(), v, count);
    for (int i = 0; i < count && i < kLanes; ++i) passed &= load1(&to[i]) == i + 1;
    passed &= load1(&to[count]) == -7;
  }
  check(passed, what);
}

void test_flags() {
  bool passed = true;
  for (int count = 0; count <= kLanes; ++count)
    for (uint32_t bits = 0; bits < 1u << kLanes; bits += kLanes > 8 ? 37 : 1) {
      bool flags[kLanes];
      for (int i = 0; i < kLanes; ++i) flags[i] = bits >> i & 1;
      const vint mask = load_some(flags, count);
      const uint32_t kept = bits & ((1ull << count) - 1);
      for (int i = 0; i < kLanes; ++i) passed &= mask[i] == (kept >> i & 1 ? -1 : 0);
      passed &= lane_bits(mask) == kept && any(mask) == (kept != 0);
    }
  check(passed, "flags, lane_bits");
}

void test_lanes() {
  const vfloat lanes = numbered(1);
  bool passed = sum_lanes(lanes) == kLanes * (kLanes + 1) / 2;
  for (int i = 0; i < kLanes; ++i) {
    vfloat v = -lanes;
    v[i] = 5;
    passed &= max_lanes(v) == 5 && max_lanes(splat(-INFINITY)) == -INFINITY;
  }
  check(passed, "sum, max_lanes");

  const vfloat swapped = swap_pairs(lanes), magnitude = vabs(-lanes);
  passed = true;
  for (int i = 0; i < kLanes; ++i) passed &= swapped[i] == (i ^ 1) + 1 && magnitude[i] == i + 1;
  check(passed, "swap_pairs, vabs");

  const vfloat nan = splat(NAN), one = splat(1);  // the second operand is what a NaN leaves
  check(vmax(nan, one)[0] == 1 && std::isnan(vmax(one, nan)[0]) && vmin(nan, one)[0] == 1 && std::isnan(vmin(one, nan)[0]) &&
            vmax(lanes, splat(2))[0] == 2 && vmin(lanes, splat(2))[kLanes - 1] == 2,
        "vmax, vmin");
}

void test_squares() {
  vfloat square[kLanes], sums[kLanes];
  for (int i = 0; i < kLanes; ++i) sums[i] = square[i] = numbered(100 * i);
  transpose(square);
  bool passed = true;
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < kLanes; ++j) passed &= square[i][j] == 100 * j + i;
  check(passed, "transpose");

  const vfloat sum = sum_rows(sums);
  passed = true;
  for (int i = 0; i < kLanes; ++i) passed &= sum[i] == 100 * i * kLanes + kLanes * (kLanes - 1) / 2;
  check(passed, "sum_rows");
}

void test_padding() {
  bool passed = true;
  for (int64_t n = 0; n <= 4 * kLanes; ++n)
    passed &= padded(n) >= n && padded(n) < n + kLanes && padded(n) % kLanes == 0 && smaller(n, 7) == (n < 7 ? n : 7) &&
              larger(n, 7) == (n > 7 ? n : 7);
  check(passed, "padded");
}

void test_flush() {
#if defined(__SSE__) || defined(__aarch64__)
  volatile float tiny = 1e-38f, inside, outside;  // else the products might be computed elsewhere
  {
    const FlushDenormals flush;
    inside = tiny * 0.01f;
  }
  outside = tiny * 0.01f;
  check(inside == 0 && outside != 0, "FlushDenormals");
#endif
}

}  // namespace
}  // namespace lifter

int main(int argc, char** argv) {
  using namespace lifter;
  const uint64_t stride = argc > 1 ? strtoull(argv[1], nullptr, 10) : 1;
  if (!stride) return fprintf(stderr, "simd_test: STRIDE is %s, expected a number above 0\n", argv[1]), 2;
  test_functions(stride);
  test_bfloat16(stride);
  test_some<float>("some floats");
  test_some<bfloat16>("some bfloat16");
  test_flags();
  test_lanes();
  test_squares();
  test_padding();
  test_flush();
  return failures != 0;
}
