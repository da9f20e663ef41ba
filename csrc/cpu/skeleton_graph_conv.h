#pragma once
#include "../capability.h"

namespace lifter {

// A (batch, frames, joints, channels) tensor, or null: elements from a clip, frame or joint to the next. The channels are
// contiguous.
struct PoseMap {
  const void* data;
  int64_t batch, frame, joint;
};

// The edges of a graph by the joint at one of their ends: those of joint j are [first[j], first[j + 1]), `joint` is the other.
struct Edges {
  const int32_t *first, *joint;
  const float* weight;
};

struct SkeletonGraphConv {
  int64_t batch, frames, joints, channels;
  bool bfloat16;  // else float32, of all maps
  bool relu;
  PoseMap x, root, residual;  // all but x may be null; in the backward, which has no residual, x too
  Edges senders;              // by receiver
  const float *scale, *shift;  // (joints), or null
};

struct SkeletonGraphConvGradient {
  PoseMap dout, out;  // out is null without relu
  Edges receivers;    // by sender
  void* dx;           // this and the next two are (batch, frames, joints, channels), contiguous
  void *passed, *droot;    // dout where relu let it pass, and that times scale; or null
  float *dscale, *dshift;  // (joints), or null; dscale needs x
  float* partials;         // (skeleton_graph_conv_shares, 2, joints)
};

// A share is a few frames: the work of one task, and what is summed before all shares are.
static inline int64_t skeleton_graph_conv_share_frames(const SkeletonGraphConv& s) {
  constexpr int64_t kShare = 16384;  // elements
  const int64_t frames = kShare / (s.joints * s.channels);
  return frames > 1 ? frames : 1;
}

static inline int64_t skeleton_graph_conv_shares(const SkeletonGraphConv& s) {
  const int64_t frames = skeleton_graph_conv_share_frames(s);
  return (s.batch * s.frames + frames - 1) / frames;
}

}  // namespace lifter

// out is (batch, frames, joints, channels), contiguous.
LIFTER_KERNEL(void skeleton_graph_conv_forward(const SkeletonGraphConv&, void* out))
LIFTER_KERNEL(void skeleton_graph_conv_backward(const SkeletonGraphConv&, const SkeletonGraphConvGradient&))
