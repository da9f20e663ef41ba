// skeleton_graph_conv and skeleton_graph_conv_bwd on the CPU: graphs, strides and outputs around
// csrc/cpu/skeleton_graph_conv.cpp.
#include "cpu/skeleton_graph_conv.h"

#include "glue.h"

namespace lifter {
namespace {

// (J, D) neighbours and weights as lists, in their order.
class EdgeLists {
 public:
  EdgeLists(Inputs& in, const Tensor& neighbours, const Tensor& weights, bool by_sender) : first_(neighbours.size(0) + 1) {
    const int64_t joints = neighbours.size(0), degree = neighbours.size(1);
    const int32_t* senders = in.data<int32_t>(neighbours);
    const float* weight = in.data<float>(weights);
    const auto each = [&](const auto& f) {
      for (int64_t i = 0; i < joints * degree; ++i) {
        const int32_t sender = senders[i], receiver = static_cast<int32_t>(i / degree);
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
      weight_[next[joint]++] = weight[i];
    });
  }

  Edges edges() const { return {first_.data(), joint_.data(), weight_.data()}; }

 private:
  std::vector<int32_t> first_, joint_;
  std::vector<float> weight_;
};

PoseMap pose_map(Inputs& in, const OptionalTensor& t_) {
  const Tensor* t = in.contiguous_channels(t_);
  return t ? PoseMap{t->data_ptr(), t->stride(0), t->stride(1), t->stride(2)} : PoseMap{};
}

// `like`: any map.
SkeletonGraphConv convolution(Inputs& in, const Tensor& like, const OptionalTensor& x, const EdgeLists& senders,
                              const OptionalTensor& root, const OptionalTensor& scale) {
  SkeletonGraphConv s{};
  s.batch = like.size(0), s.frames = like.size(1), s.joints = like.size(2), s.channels = like.size(3);
  s.bfloat16 = is_bfloat16("skeleton_graph_conv", like);
  s.x = pose_map(in, x), s.root = pose_map(in, root), s.scale = in.data<float>(scale);
  s.senders = senders.edges();
  return s;
}

Tensor forward(const Tensor& x, const Tensor& neighbours, const Tensor& weights, const OptionalTensor& root,
               const OptionalTensor& scale, const OptionalTensor& shift, const OptionalTensor& residual, bool relu) {
  Inputs in;
  const EdgeLists senders(in, neighbours, weights, false);
  SkeletonGraphConv s = convolution(in, x, x, senders, root, scale);
  s.shift = in.data<float>(shift), s.residual = pose_map(in, residual), s.relu = relu;
  const Tensor out = contiguous_like(x);
  LIFTER_CALL(skeleton_graph_conv_forward, s, out.data_ptr());
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(const Tensor& dout, const Tensor& neighbours,
                                                            const Tensor& weights, const OptionalTensor& scale,
                                                            const OptionalTensor& out, const OptionalTensor& x,
                                                            const OptionalTensor& root, bool passed_wanted,
                                                            bool root_wanted, bool shift_wanted) {
  Inputs in;
  const EdgeLists senders(in, neighbours, weights, false), receivers(in, neighbours, weights, true);
  const SkeletonGraphConv s = convolution(in, dout, x, senders, root, scale);
  const auto map = [&](bool wanted) { return wanted ? contiguous_like(dout) : absent(dout); };
  const auto sums = [&](bool wanted) { return wanted ? empty(dout, {s.joints}, ScalarType::Float) : absent(dout); };
  const Tensor dx = map(true), passed = map(passed_wanted), droot = map(root_wanted);
  const Tensor dscale = sums(x.has_value()), dshift = sums(shift_wanted);
  const Tensor partials = empty(dout, {skeleton_graph_conv_shares(s), 2, s.joints}, ScalarType::Float);
  const SkeletonGraphConvGradient g{pose_map(in, dout),
                                    pose_map(in, out),
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
