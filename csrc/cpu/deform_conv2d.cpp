// Deformable convolution, channels last: where a tap reads is found once per output pixel, for vectors of channels.

#include "deform_conv2d.h"

#include "../parallel.h"
#include "arena.h"
#include "reduce.h"
#include "vector_loop.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

constexpr int64_t kPixels = 16;           // most output pixels whose places are found together
constexpr int64_t kScatterChannels = 64;  // most channels of one task of the scatter into dinput

int64_t taps_of(const DeformConv2d& s) { return s.kernel[0] * s.kernel[1]; }

// `count` output pixels of one row.
struct Pixels {
  int64_t batch, row, column, count;
};

// The places in the input that the taps of a block of output pixels read, for one offset group. All arrays are [pixel][tap].
class Places {
 public:
  float *fy, *fx, *mask;          // the way from the upper left of the four neighbours
  float* weight[4];               // of each neighbour (upper left, upper right, lower left, lower right), times mask
  int32_t *top, *left, *inside;   // the upper left neighbour; bit i is set if neighbour i is a pixel

  explicit Places(const DeformConv2d& s) : s_(s), taps_(taps_of(s)), arena_([this](Arena& arena) { lay_out(arena); }) {
    for (int64_t i = 0; i < kPixels * taps_; ++i) fy[i] = fx[i] = mask[i] = 1.0f;
  }

  void find(const Pixels& at, int64_t group) {
    gather(at, group);
    const vfloat height = splat(s_.height), width = splat(s_.width);
    const vint last_row = (vint)vfloat{} + int32_t(s_.height - 1), last_column = (vint)vfloat{} + int32_t(s_.width - 1);
    for (int64_t i = 0; i < at.count * taps_; i += kLanes) {
      vfloat y = load(fy + i), x = load(fx + i);
      const vfloat m = load(mask + i);
      // A place that is outside, infinite or NaN becomes -2, which has no neighbours, before it becomes an integer.
      const vint near = (y >= -1.0f) & (y < height) & (x >= -1.0f) & (x < width);
      y = near ? y : splat(-2.0f);
      x = near ? x : splat(-2.0f);
      vint row = __builtin_convertvector(y, vint), column = __builtin_convertvector(x, vint);
      row += __builtin_convertvector(row, vfloat) > y;
      column += __builtin_convertvector(column, vfloat) > x;
      y -= __builtin_convertvector(row, vfloat);
      x -= __builtin_convertvector(column, vfloat);
      const vint upper = row >= 0, lower = (row >= -1) & (row < last_row);
      const vint before = column >= 0, after = (column >= -1) & (column < last_column);
      store(fy + i, y);
      store(fx + i, x);
      store(weight[0] + i, (1.0f - y) * (1.0f - x) * m);
      store(weight[1] + i, (1.0f - y) * x * m);
      store(weight[2] + i, y * (1.0f - x) * m);
      store(weight[3] + i, y * x * m);
      memcpy(top + i, &row, sizeof row);
      memcpy(left + i, &column, sizeof column);
      const vint bits = (upper & before & 1) | (upper & after & 2) | (lower & before & 4) | (lower & after & 8);
      memcpy(inside + i, &bits, sizeof bits);
    }
  }

 private:
  void lay_out(Arena& arena) {
    for (float** p : {&fy, &fx, &mask, &weight[0], &weight[1], &weight[2], &weight[3]}) *p = arena.take(kPixels * taps_);
    for (int32_t** p : {&top, &left, &inside}) *p = arena.take<int32_t>(kPixels * taps_);
  }

  // The places themselves, into fy and fx, and the mask.
  void gather(const Pixels& at, int64_t group) {
    const int64_t* stride = s_.offset_strides;
    const float* offset = s_.offset + at.batch * stride[0] + at.row * stride[2] + at.column * stride[3];
    for (int64_t t = 0; t < taps_; ++t) {
      const float* dy = offset + 2 * (group * taps_ + t) * stride[1];
      const float* dx = dy + stride[1];
      const int64_t y = at.row * s_.stride[0] - s_.padding[0] + t / s_.kernel[1] * s_.dilation[0];
      const int64_t x = at.column * s_.stride[1] - s_.padding[1] + t % s_.kernel[1] * s_.dilation[1];
      for (int64_t p = 0; p < at.count; ++p) {
        fy[p * taps_ + t] = float(y) + dy[p * stride[3]];
        fx[p * taps_ + t] = float(x + p * s_.stride[1]) + dx[p * stride[3]];
      }
    }
    if (!s_.mask) return;
    stride = s_.mask_strides;
    const float* from = s_.mask + at.batch * stride[0] + at.row * stride[2] + at.column * stride[3];
    for (int64_t t = 0; t < taps_; ++t)
      for (int64_t p = 0; p < at.count; ++p)
        mask[p * taps_ + t] = from[(group * taps_ + t) * stride[1] + p * stride[3]];
  }

  const DeformConv2d& s_;
  const int64_t taps_;
  const Arena arena_;
};

// The four pixels around one place, from channel c on; what is not inside is a row of zeros.
struct Neighbours {
  const float* row[4];
  float weight[4];

  __attribute__((always_inline)) vfloat sample(int64_t c, int64_t lanes) const {
    return (weight[0] * load_some(row[0] + c, lanes) + weight[1] * load_some(row[1] + c, lanes)) +
           (weight[2] * load_some(row[2] + c, lanes) + weight[3] * load_some(row[3] + c, lanes));
  }
};

// An output pixel as one group of channels [begin, end) sees it.
struct Pixel {
  int64_t batch, row, column, index, group, begin, end;
  int64_t place;       // of its first tap
  const float* image;  // that it reads
};

// Reads the input of a task.
class Sampler {
 public:
  const DeformConv2d& s;
  Places places;
  const int64_t taps;

  explicit Sampler(const DeformConv2d& s)
      : s(s), places(s), taps(taps_of(s)), arena_([&](Arena& arena) { zeros_ = arena.take(s.channels); }) {
    memset(zeros_, 0, s.channels * sizeof(float));
    const int64_t dense[] = {s.height * s.width * s.channels, s.width * s.channels, s.channels};
    memcpy(strides_, s.widened ? dense : s.input_strides, sizeof strides_);
  }

  // Calls f(pixel) for all output pixels of the rows [begin, end) of (batch, out_height), as seen by the groups
  // [first, last), after finding its places.
  template <class F>
  void over_pixels(int64_t begin, int64_t end, int64_t first, int64_t last, const F& f) {
    const float* input = s.widened ? s.widened : static_cast<const float*>(s.input);
    const int64_t blocks = (s.out_width + kPixels - 1) / kPixels, channels = s.channels / s.groups;
    for (int64_t row = begin; row < end; ++row)
      for (int64_t block = 0; block < blocks; ++block)
        for (int64_t group = first; group < last; ++group) {
          const int64_t column = s.out_width * block / blocks, count = s.out_width * (block + 1) / blocks - column;
          const int64_t batch = row / s.out_height;
          places.find({batch, row % s.out_height, column, count}, group);
          for (int64_t p = 0; p < count; ++p)
            f(Pixel{batch, row % s.out_height, column + p, row * s.out_width + column + p, group, group * channels,
                    (group + 1) * channels, p * taps, input + batch * strides_[0]});
        }
  }

  // The neighbours of a tap, from channel c on.
  __attribute__((always_inline)) Neighbours around(const Pixel& pixel, int64_t tap, int64_t c) const {
    const int64_t i = pixel.place + tap, at = places.top[i] * strides_[1] + places.left[i] * strides_[2] + c;
    const int32_t inside = places.inside[i];
    const float *image = pixel.image, *outside = zeros_ + c;
    return {{inside & 1 ? image + at : outside, inside & 2 ? image + at + strides_[2] : outside,
             inside & 4 ? image + at + strides_[1] : outside,
             inside & 8 ? image + at + strides_[1] + strides_[2] : outside},
            {places.weight[0][i], places.weight[1][i], places.weight[2][i], places.weight[3][i]}};
  }

  // The first value of a pixel in an output: its channels, or its columns.
  template <class T>
  T* of(const Pixel& pixel, T* output) const {
    return output + pixel.index * s.channels * (s.weight ? 1 : taps);
  }

 private:
  float* zeros_;
  int64_t strides_[3];
  const Arena arena_;
};

// The rows [begin, end) of (batch, out_height) that belong to a share.
struct Share {
  Share(const DeformConv2d& s, int64_t i)
      : begin(s.batch * s.out_height * i / deform_conv2d_shares(s)),
        end(s.batch * s.out_height * (i + 1) / deform_conv2d_shares(s)) {}
  int64_t begin, end;
};

// Converted once, not by each of the up to 4 * taps reads of a pixel.
void widen(const DeformConv2d& s) {
  if (!s.widened) return;
  parallel_for(s.batch * s.height, [&](int64_t row) {
    const bfloat16* from = static_cast<const bfloat16*>(s.input) + row / s.height * s.input_strides[0] +
                           row % s.height * s.input_strides[1];
    for (int64_t x = 0; x < s.width; ++x, from += s.input_strides[2]) {
      float* to = s.widened + (row * s.width + x) * s.channels;
      for (int64_t c = 0; c < s.channels; c += kLanes)
        store_some(to + c, load_some(from + c, s.channels - c), s.channels - c);
    }
  });
}

template <class T>
void forward(const DeformConv2d& s, void* result) {
  const int64_t taps = taps_of(s), C = s.channels;
  parallel_for(deform_conv2d_shares(s), [&](int64_t i) {
    const Share share(s, i);
    Sampler sampler(s);
    sampler.over_pixels(share.begin, share.end, 0, s.groups, [&](const Pixel& pixel) {
      T* out = sampler.of(pixel, static_cast<T*>(result));
      vector_loop(pixel.begin, pixel.end, [&](auto vectors, int64_t c, int64_t lanes) __attribute__((always_inline)) {
        constexpr int V = vectors.count;
        vfloat sum[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[v] = s.bias ? load_some(s.bias + c + v * kLanes, lanes) : vfloat{};
        for (int64_t t = 0; t < taps; ++t) {
          const Neighbours n = sampler.around(pixel, t, c);
#pragma GCC unroll 8
          for (int v = 0; v < V; ++v) {
            const vfloat sample = n.sample(v * kLanes, lanes);
            if (s.weight)
              sum[v] += sample * load_some(s.weight + t * C + c + v * kLanes, lanes);
            else
              store_some(out + t * C + c + v * kLanes, sample, lanes);
          }
        }
        if (!s.weight) return;
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) store_some(out + c + v * kLanes, sum[v], lanes);
      });
    });
  });
}

// sums[i] = sum over the lanes of rows[i], for `count` rows, a multiple of kLanes.
void sum_rows(const float* rows, int64_t count, float* sums) {
  for (int64_t i = 0; i < count; i += kLanes) {
    vfloat r[kLanes];
    for (int j = 0; j < kLanes; ++j) r[j] = load(rows + (i + j) * kLanes);
    transpose(r);
    for (int n = kLanes / 2; n; n /= 2)
      for (int j = 0; j < n; ++j) r[j] += r[j + n];
    store(sums + i, r[0]);
  }
}

// dots[tap][neighbour]: the sum over channels of the tap's gradient times the neighbour; each comes as a row of lanes.
// Adds to the dweight of a depthwise convolution, whose last row is dbias.
template <class T>
void multiply(const Sampler& sampler, const Pixel& pixel, const T* dout, float* dweight, float* dots) {
  const DeformConv2d& s = sampler.s;
  const int64_t taps = sampler.taps, C = s.channels;
  for (int64_t t = 0; t < taps; ++t, dout += s.weight ? 0 : C) {
    const Neighbours n = sampler.around(pixel, t, 0);
    const float* weight = s.weight ? s.weight + t * C : nullptr;
    float* sum = s.weight ? dweight + t * C : nullptr;
    vfloat dot[4] = {};
    vector_loop(pixel.begin, pixel.end, [&](auto vectors, int64_t c, int64_t lanes) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (const int64_t end = c + vectors.count * kLanes; c < end; c += kLanes) {
        const vfloat d = load_some(dout + c, lanes), dsample = weight ? d * load_some(weight + c, lanes) : d;
        vfloat sample = {};
        for (int i = 0; i < 4; ++i) {
          const vfloat x = load_some(n.row[i] + c, lanes);
          sample += n.weight[i] * x;
          dot[i] += dsample * x;
        }
        if (weight) store_some(sum + c, load_some(sum + c, lanes) + d * sample, lanes);
      }
    });
    for (int i = 0; i < 4; ++i) store(dots + (4 * t + i) * kLanes, dot[i]);
  }
  if (!s.weight) return;
  for (int64_t c = pixel.begin; c < pixel.end; c += kLanes) {
    float* sum = dweight + taps * C + c;
    const int64_t lanes = pixel.end - c;
    store_some(sum, load_some(sum, lanes) + load_some(dout + c, lanes), lanes);
  }
}

// The derivatives by place and mask are differences of the dots.
void derive(const Sampler& sampler, const Pixel& pixel, const float* dots, const DeformConv2dGradient& g) {
  const auto start = [&](float* x, const int64_t* stride, int64_t channels) {
    return x + pixel.batch * stride[0] + pixel.group * channels * stride[1] + pixel.row * stride[2] +
           pixel.column * stride[3];
  };
  const int64_t taps = sampler.taps, stride = g.doffset_strides[1], mask_stride = g.dmask_strides[1];
  float* doffset = start(g.doffset, g.doffset_strides, 2 * taps);
  float* dmask = g.dmask ? start(g.dmask, g.dmask_strides, taps) : nullptr;
  for (int64_t t = 0; t < taps; ++t) {
    const int64_t i = pixel.place + t;
    const float *dot = dots + 4 * t, fy = sampler.places.fy[i], fx = sampler.places.fx[i];
    const float mask = sampler.places.mask[i];
    const float upper = (1 - fx) * dot[0] + fx * dot[1], lower = (1 - fx) * dot[2] + fx * dot[3];
    doffset[2 * t * stride] = mask * (lower - upper);
    doffset[(2 * t + 1) * stride] = mask * ((1 - fy) * (dot[1] - dot[0]) + fy * (dot[3] - dot[2]));
    if (dmask) dmask[t * mask_stride] = (1 - fy) * upper + fy * lower;
  }
}

// doffset, dmask, dweight and dbias: output pixels in shares, each with a dweight of its own.
template <class T>
void backward_places(const DeformConv2d& s, const DeformConv2dGradient& g) {
  const int64_t taps = taps_of(s), C = s.channels, shares = deform_conv2d_shares(s), size = (taps + 1) * C;
  parallel_for(shares, [&](int64_t i) {
    const Share share(s, i);
    const int64_t count = padded(4 * taps);
    Sampler sampler(s);
    float *rows, *dots;
    const Arena arena([&](Arena& arena) { rows = arena.take(count * kLanes), dots = arena.take(count); });
    memset(rows, 0, count * kLanes * sizeof(float));
    float* dweight = s.weight ? g.partials + i * size : nullptr;
    if (dweight) memset(dweight, 0, size * sizeof(float));
    sampler.over_pixels(share.begin, share.end, 0, s.groups, [&](const Pixel& pixel) {
      multiply(sampler, pixel, sampler.of(pixel, static_cast<const T*>(g.dout)), dweight, rows);
      sum_rows(rows, count, dots);
      derive(sampler, pixel, dots, g);
    });
  });
  if (!s.weight) return;
  sum_parts(g.partials, shares, size, taps * C, g.dweight);
  sum_parts(g.partials + taps * C, shares, size, C, g.dbias);
}

// dinput. A task has some channels of one image for itself and visits the output pixels in order: no two tasks add to
// the same number, and the order of additions is always the same.
template <class T>
void backward_input(const DeformConv2d& s, const DeformConv2dGradient& g) {
  const int64_t taps = taps_of(s), C = s.channels, pixels = s.height * s.width;
  const int64_t per_group = (C / s.groups + kScatterChannels - 1) / kScatterChannels;
  parallel_for(s.batch * s.groups * per_group, [&](int64_t task) {
    const int64_t batch = task / per_group / s.groups, group = task / per_group % s.groups;
    const int64_t begin = group * (C / s.groups) + task % per_group * kScatterChannels;
    const int64_t end = smaller(begin + kScatterChannels, (group + 1) * (C / s.groups));
    Sampler sampler(s);
    const Places& places = sampler.places;
    float* image = g.dinput_sum + batch * pixels * C;
    for (int64_t i = 0; i < pixels; ++i) memset(image + i * C + begin, 0, (end - begin) * sizeof(float));

    sampler.over_pixels(batch * s.out_height, (batch + 1) * s.out_height, group, group + 1, [&](const Pixel& pixel) {
      const T* dout = sampler.of(pixel, static_cast<const T*>(g.dout));
      vector_loop(begin, end, [&](auto vectors, int64_t c, int64_t lanes) __attribute__((always_inline)) {
        constexpr int V = vectors.count;
        for (int64_t t = 0; t < taps; ++t) {
          vfloat d[V];
#pragma GCC unroll 8
          for (int v = 0; v < V; ++v) {
            const int64_t at = c + v * kLanes;
            d[v] = s.weight ? load_some(dout + at, lanes) * load_some(s.weight + t * C + at, lanes)
                            : load_some(dout + t * C + at, lanes);
          }
          const int64_t i = pixel.place + t, upper_left = places.top[i] * s.width + places.left[i];
          for (int neighbour = 0; neighbour < 4; ++neighbour) {
            if (!(places.inside[i] >> neighbour & 1)) continue;
            const float weight = places.weight[neighbour][i];
            float* sum = image + (upper_left + neighbour / 2 * s.width + neighbour % 2) * C + c;
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v)
              store_some(sum + v * kLanes, load_some(sum + v * kLanes, lanes) + weight * d[v], lanes);
          }
        }
      });
    });

    if (!s.bfloat16) return;
    T* dinput = static_cast<T*>(g.dinput) + batch * pixels * C;
    for (int64_t i = 0; i < pixels; ++i)
      for (int64_t c = begin; c < end; c += kLanes)
        store_some(dinput + i * C + c, load_some(image + i * C + c, end - c), end - c);
  });
}

template <class T>
void backward(const DeformConv2d& s, const DeformConv2dGradient& g) {
  backward_places<T>(s, g);
  backward_input<T>(s, g);
}

}  // namespace

void deform_conv2d_forward(const DeformConv2d& s, void* out) {
  widen(s);
  s.bfloat16 ? forward<bfloat16>(s, out) : forward<float>(s, out);
}

void deform_conv2d_backward(const DeformConv2d& s, const DeformConv2dGradient& g) {
  widen(s);
  s.bfloat16 ? backward<bfloat16>(s, g) : backward<float>(s, g);
}

}  // namespace lifter::LIFTER_CAPABILITY
