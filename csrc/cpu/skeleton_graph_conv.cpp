// A graph convolution along the joints, frame by frame, so that what a joint receives is in the cache.

#include "skeleton_graph_conv.h"

#include "../parallel.h"
#include "arena.h"
#include "epilogue.h"
#include "reduce.h"
#include "tile_io.h"
#include "vector_loop.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

// The rows of one frame of a map, null if the map is.
template <class T>
struct Rows {
  Rows(const PoseMap& map, int64_t batch, int64_t frame)
      : data(static_cast<const T*>(map.data)), stride(map.joint) {
    if (data) data += batch * map.batch + frame * map.frame;
  }
  const T* operator[](int64_t joint) const { return data + joint * stride; }

  const T* data;
  int64_t stride;
};

// y[v] = what joint j receives, and its row of `root`, in the channels c and on.
template <int V, class T>
LIFTER_INLINE void receive(const Edges& senders, const Rows<T>& x, const Rows<T>& root, int64_t j, int64_t c, int64_t lanes,
                           vfloat* y) {
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) y[v] = root.data ? load_some(root[j] + c + v * kLanes, lanes) : vfloat{};
  for (int32_t e = senders.first[j]; e < senders.first[j + 1]; ++e) {
    const T* row = x[senders.joint[e]] + c;
    const float weight = senders.weight[e];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) y[v] += weight * load_some(row + v * kLanes, lanes);
  }
}

// Calls f(number, begin, end) for every share of the frames.
template <class F>
void over_shares(const SkeletonGraphConv& s, const F& f) {
  const int64_t share = skeleton_graph_conv_share_frames(s), frames = s.batch * s.frames;
  parallel_for(skeleton_graph_conv_shares(s), [&](int64_t i) {
    const FlushDenormals flush;
    f(i, i * share, smaller((i + 1) * share, frames));
  });
}

template <class T>
void forward(const SkeletonGraphConv& s, void* out_) {
  over_shares(s, [&](int64_t, int64_t begin, int64_t end) {
    T* out = static_cast<T*>(out_) + begin * s.joints * s.channels;
    for (int64_t n = begin; n < end; ++n) {
      const int64_t batch = n / s.frames, frame = n % s.frames;
      const Rows<T> x(s.x, batch, frame), root(s.root, batch, frame), residual(s.residual, batch, frame);
      for (int64_t j = 0; j < s.joints; ++j, out += s.channels) {
        const Epilogue<T> epilogue{s.scale ? s.scale[j] : 1, s.shift ? s.shift[j] : 0, residual.data ? residual[j] : nullptr,
                                   s.relu};
        vector_loop(0, s.channels, [&](auto vectors, int64_t c, int64_t lanes) LIFTER_LAMBDA {
          constexpr int V = vectors.count;
          vfloat y[V];
          receive<V>(s.senders, x, root, j, c, lanes, y);
#pragma GCC unroll 8
          for (int v = 0; v < V; ++v) epilogue.finish(y[v], out, c + v * kLanes, lanes);
        });
      }
    }
  });
}

// Sums over frames and channels, [joint][lane].
struct Sums {
  float *dscale, *dshift;
};

// The backward of one frame: first dout, in float, on its way back to the sum, then the messages between the joints.
template <class T>
void backward_frame(const SkeletonGraphConv& s, const SkeletonGraphConvGradient& g, int64_t n, float* dsum, const Sums& sums) {
  const int64_t batch = n / s.frames, frame = n % s.frames, C = s.channels, row = padded(C);
  const Rows<T> x(s.x, batch, frame), root(s.root, batch, frame);
  const Rows<T> dout(g.dout, batch, frame), out(g.out, batch, frame);
  const auto of = [&](void* map, int64_t j) { return map ? static_cast<T*>(map) + (n * s.joints + j) * C : nullptr; };
  for (int64_t j = 0; j < s.joints; ++j) {
    EpilogueGradient<T> gradient{s.scale ? s.scale[j] : 1, dout[j], out.data ? out[j] : nullptr, of(g.passed, j),
                                 of(g.droot, j)};
    vector_loop(0, C, [&](auto vectors, int64_t c, int64_t lanes) LIFTER_LAMBDA {
      constexpr int V = vectors.count;
      vfloat y[V] = {};
      if (x.data) receive<V>(s.senders, x, root, j, c, lanes, y);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v)
        store(dsum + j * row + c + v * kLanes, gradient.back(y[v], c + v * kLanes, lanes));
    });
    store(sums.dscale + j * kLanes, load(sums.dscale + j * kLanes) + gradient.dscale);
    store(sums.dshift + j * kLanes, load(sums.dshift + j * kLanes) + gradient.dshift);
  }
  const PoseMap received{dsum, 0, 0, row};
  const Rows<float> from(received, 0, 0), nothing(PoseMap{}, 0, 0);
  for (int64_t j = 0; j < s.joints; ++j) {
    T* dx = of(g.dx, j);
    vector_loop(0, C, [&](auto vectors, int64_t c, int64_t lanes) LIFTER_LAMBDA {
      constexpr int V = vectors.count;
      vfloat y[V];
      receive<V>(g.receivers, from, nothing, j, c, lanes, y);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) store_some(dx + c + v * kLanes, y[v], lanes);
    });
  }
}

// In two stages, whose order depends on nothing but the shape: lanes and frames of a share, then shares.
void sum_shares(const SkeletonGraphConv& s, const SkeletonGraphConvGradient& g) {
  const int64_t shares = skeleton_graph_conv_shares(s), J = s.joints;
  if (g.dscale) sum_parts(g.partials, shares, 2 * J, J, g.dscale);
  if (g.dshift) sum_parts(g.partials + J, shares, 2 * J, J, g.dshift);
}

template <class T>
void backward(const SkeletonGraphConv& s, const SkeletonGraphConvGradient& g) {
  over_shares(s, [&](int64_t i, int64_t begin, int64_t end) {
    float* dsum;
    Sums sums;
    const Arena arena([&](Arena& arena) {
      dsum = arena.take(s.joints * padded(s.channels));
      sums.dscale = arena.take(s.joints * kLanes), sums.dshift = arena.take(s.joints * kLanes);
    });
    for (float* sum : {sums.dscale, sums.dshift}) memset(sum, 0, s.joints * kLanes * sizeof(float));
    for (int64_t n = begin; n < end; ++n) backward_frame<T>(s, g, n, dsum, sums);
    sum_over_lanes(sums.dscale, s.joints, g.partials + 2 * i * s.joints);
    sum_over_lanes(sums.dshift, s.joints, g.partials + (2 * i + 1) * s.joints);
  });
  sum_shares(s, g);
}

}  // namespace

void skeleton_graph_conv_forward(const SkeletonGraphConv& s, void* out) {
  s.bfloat16 ? forward<bfloat16>(s, out) : forward<float>(s, out);
}

void skeleton_graph_conv_backward(const SkeletonGraphConv& s, const SkeletonGraphConvGradient& g) {
  s.bfloat16 ? backward<bfloat16>(s, g) : backward<float>(s, g);
}

}  // namespace lifter::LIFTER_CAPABILITY
