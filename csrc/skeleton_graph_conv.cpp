// skeleton_graph_conv and skeleton_graph_conv_bwd on the CPU: graphs, strides and outputs around
// csrc/cpu/skeleton_graph_conv.cpp.
#include "cpu/skeleton_graph_conv.h"

#include "tensor.h"

namespace lifter {
namespace {

// (J, D) neighbours and weights as lists, in their order.
class EdgeLists {
 public:
  EdgeLists(const Tensor& neighbours, const Tensor& weights, bool by_sender) : first_(neighbours.size(0) + 1) {
    const int64_t joints = neighbours.size(0), degree = neighbours.size(1);
    const auto each = [&](const auto& f) {
      for (int64_t i = 0; i < joints * degree; ++i) {
        const int32_t sender = data<int32_t>(neighbours)[i], receiver = static_cast<int32_t>(i / degree);
        if (sender >= 0) by_sender ? f(sender, receiver, i) : f(receiver, sender, i);
      }
    };
    each([&](int32_t joint, int32_t other, int64_t) {
      const int32_t sender = by_sender ? joint : other;
      STD_TORCH_CHECK(sender < joints, "skeleton_graph_conv: neighbours names joint ", sender, ", expected less than ",
                      joints);
      ++first_[joint + 1];
    });
    for (int64_t j = 0; j < joints; ++j) first_[j + 1] += first_[j];
    std::vector<int32_t> next(first_);
    joint_.resize(first_.back()), weight_.resize(first_.back());
    each([&](int32_t joint, int32_t other, int64_t i) {
      joint_[next[joint]] = other;
      weight_[next[joint]++] = data<float>(weights)[i];
    });
  }

  Edges edges() const { return {first_.data(), joint_.data(), weight_.data()}; }

 private:
  std::vector<int32_t> first_, joint_;
  std::vector<float> weight_;
};

OptionalTensor with_contiguous_channels(const OptionalTensor& t) { return t && t->stride(3) != 1 ? as_contiguous(t) : t; }

PoseMap pose_map(const OptionalTensor& t) {
  return t ? PoseMap{t->data_ptr(), t->stride(0), t->stride(1), t->stride(2)} : PoseMap{};
}

// Owns what the kernel reads for as long as it reads. `like`: any map.
struct Inputs {
  Inputs(const Tensor& like, const OptionalTensor& x_, const Tensor& neighbours_, const Tensor& weights_,
         const OptionalTensor& root_, const OptionalTensor& scale_)
      : x(with_contiguous_channels(x_)), root(with_contiguous_channels(root_)), scale(as_contiguous(scale_)),
        neighbours(as_contiguous(neighbours_)), weights(as_contiguous(weights_)), senders(neighbours, weights, false) {
    s.batch = like.size(0), s.frames = like.size(1), s.joints = like.size(2), s.channels = like.size(3);
    s.bfloat16 = is_bfloat16("skeleton_graph_conv", like);
    s.x = pose_map(x), s.root = pose_map(root), s.scale = data<float>(scale);
    s.senders = senders.edges();
  }

  OptionalTensor x, root, scale;
  Tensor neighbours, weights;
  EdgeLists senders;
  SkeletonGraphConv s{};
};

Tensor map_like(const Tensor& t) { return empty(t, {t.size(0), t.size(1), t.size(2), t.size(3)}, t.scalar_type()); }

Tensor forward(const Tensor& x, const Tensor& neighbours, const Tensor& weights, const OptionalTensor& root,
               const OptionalTensor& scale, const OptionalTensor& shift_, const OptionalTensor& residual_, bool relu) {
  Inputs in(x, x, neighbours, weights, root, scale);
  const OptionalTensor shift = as_contiguous(shift_), residual = with_contiguous_channels(residual_);
  in.s.shift = data<float>(shift), in.s.residual = pose_map(residual), in.s.relu = relu;
  const Tensor out = map_like(x);
  LIFTER_CALL(skeleton_graph_conv_forward, in.s, out.data_ptr());
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(const Tensor& dout_, const Tensor& neighbours,
                                                            const Tensor& weights, const OptionalTensor& scale,
                                                            const OptionalTensor& out_, const OptionalTensor& x,
                                                            const OptionalTensor& root, bool passed_wanted,
                                                            bool root_wanted, bool shift_wanted) {
  const Inputs in(dout_, x, neighbours, weights, root, scale);
  const SkeletonGraphConv& s = in.s;
  const OptionalTensor dout = with_contiguous_channels(dout_), out = with_contiguous_channels(out_);
  const EdgeLists receivers(in.neighbours, in.weights, true);
  const Tensor dx = map_like(dout_);
  const Tensor passed = passed_wanted ? map_like(dout_) : absent(dout_), droot = root_wanted ? map_like(dout_) : absent(dout_);
  const Tensor dscale = x ? empty(dout_, {s.joints}, ScalarType::Float) : absent(dout_);
  const Tensor dshift = shift_wanted ? empty(dout_, {s.joints}, ScalarType::Float) : absent(dout_);
  const Tensor partials = empty(dout_, {skeleton_graph_conv_shares(s), 2, s.joints}, ScalarType::Float);
  const SkeletonGraphConvGradient g{pose_map(dout),
                                    pose_map(out),
                                    receivers.edges(),
                                    dx.data_ptr(),
                                    output_or_null<void>(passed),
                                    output_or_null<void>(droot),
                                    output_or_null<float>(dscale),
                                    output_or_null<float>(dshift),
                                    output<float>(partials)};
  LIFTER_CALL(skeleton_graph_conv_backward, s, g);
  return {dx, passed, droot, dscale, dshift};
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) {
  m.impl("skeleton_graph_conv", TORCH_BOX(&lifter::forward));
  m.impl("skeleton_graph_conv_bwd", TORCH_BOX(&lifter::backward));
}
