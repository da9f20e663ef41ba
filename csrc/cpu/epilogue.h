// The epilogue of a graph convolution: relu(y * scale + shift + residual) for the sum y of a row of channels, and its
// backward.
#pragma once
#include "simd.h"

namespace lifter::LIFTER_CAPABILITY {

template <class T>
struct Epilogue {
  float scale, shift;
  const T* residual;  // or null
  bool relu;

  // The first `lanes` lanes of a vector, channels `c` and on.
  LIFTER_MEMBER void finish(vfloat y, T* out, int64_t c, int64_t lanes) const {
    y = y * scale + shift;
    if (residual) y += load_some(residual + c, lanes);
    store_some(out + c, relu ? vmax(vfloat{}, y) : y, lanes);
  }
};

template <class T>
struct EpilogueGradient {
  float scale;
  const T *dout, *out;   // out is null without relu
  T *dresidual, *dterm;  // of the residual, and of what is a term of y; or null
  vfloat dscale = {}, dshift = {};  // sums over the channels, lane by lane

  // The gradient of y; zero is as good as y where nobody wants dscale.
  LIFTER_MEMBER vfloat back(vfloat y, int64_t c, int64_t lanes) {
    vfloat d = load_some(dout + c, lanes);
    if (out) d = load_some(out + c, lanes) <= 0.0f ? vfloat{} : d;
    if (dresidual) store_some(dresidual + c, d, lanes);
    dscale += d * y, dshift += d;
    d *= scale;
    if (dterm) store_some(dterm + c, d, lanes);
    return d;
  }
};

}  // namespace lifter::LIFTER_CAPABILITY
