#include "rotary_tables.h"

#include <algorithm>
#include <cmath>

namespace lifter {

constexpr double kXposBase = 512;  // frames, as XPOS_BASE in kernels/retention.py

Tensor rotary_tables(const Tensor& xpos_scale, int64_t keys, int64_t chunk) {
  const int64_t row = rotary_width(keys), frames = chunk + 1;
  const Tensor contiguous = as_contiguous(xpos_scale), tables = empty(xpos_scale, {4, frames, row}, ScalarType::Float);
  const float* scale = data<float>(contiguous);
  std::fill_n(output<float>(tables), tables.numel(), 0.0f);
  for (int64_t d = 0; d < keys / 2; ++d) {
    const double angle = std::pow(10000.0, -2.0 * d / keys), size = std::pow(scale[d], 1 / kXposBase);
    double cosine = 1, sine = 0, grown = 1;
    const double step_cosine = std::cos(angle), step_sine = std::sin(angle);
    for (int64_t n = 0; n < frames; ++n) {
      for (int which = 0; which < 2; ++which) {
        const double factor = which ? 1 / grown : grown;
        float* cosines = output<float>(tables) + (2 * which * frames + n) * row + 2 * d;
        float* sines = cosines + frames * row;
        cosines[0] = cosines[1] = static_cast<float>(cosine * factor);
        sines[0] = -(sines[1] = static_cast<float>(sine * factor));
      }
      const double turned = cosine * step_cosine - sine * step_sine;
      sine = sine * step_cosine + cosine * step_sine, cosine = turned, grown *= size;
    }
  }
  return tables;
}

}  // namespace lifter
