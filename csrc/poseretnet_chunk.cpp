// poseretnet_chunk on the CPU: xPos tables, states and output around csrc/cpu/poseretnet_chunk.cpp.
#include "cpu/poseretnet_chunk.h"

#include "tensor.h"
#include "xpos.h"

namespace lifter {
namespace {

std::tuple<Tensor, std::vector<Tensor>> forward(const Tensor& keypoints_, const Tensor& weights_, const Tensor& vectors_,
                                                std::vector<Tensor> states, const Tensor& xpos_scale_, int64_t dim,
                                                int64_t hidden, int64_t heads, int64_t depth, int64_t chunk, bool causal,
                                                double scale, bool return_state) {
  const Tensor keypoints = packed(keypoints_), weights = packed(weights_), vectors = packed(vectors_);
  const Tensor xpos_scale = packed(xpos_scale_);
  PoseRetNetChunk s{};
  s.batch = keypoints.size(0), s.frames = keypoints.size(1), s.joints = keypoints.size(2), s.channels = keypoints.size(3);
  s.dim = dim, s.hidden = hidden, s.heads = heads, s.depth = depth, s.chunk = chunk < s.frames ? chunk : s.frames;
  s.causal = causal, s.scale = static_cast<float>(scale);
  s.bfloat16 = is_bfloat16("poseretnet_chunk", keypoints);
  s.pairs = s.bfloat16 && capability() == Capability::avx512_bf16;
  s.keypoints = keypoints.data_ptr(), s.weights = weights.data_ptr(), s.vectors = data<float>(vectors);
  const std::vector<float> turns = xpos_turns(data<float>(xpos_scale), dim / heads, s.chunk);
  s.turns = turns.data();

  std::vector<const float*> before;
  std::vector<float*> after;
  std::vector<Tensor> finals;
  for (Tensor& state : states) before.push_back(data<float>(state = packed(state)));
  for (int64_t i = 0; return_state && i < depth; ++i) {
    finals.push_back(empty(keypoints, {s.batch, s.joints, heads, dim / heads, dim / heads}, ScalarType::Float));
    after.push_back(output<float>(finals.back()));
  }
  s.states = states.empty() ? nullptr : before.data();
  s.finals = return_state ? after.data() : nullptr;
  const Tensor poses = empty(keypoints, {s.batch, s.frames, s.joints, 3}, keypoints.scalar_type());
  LIFTER_CALL(poseretnet_chunk_forward, s, poses.data_ptr());
  return {poses, finals};
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) { m.impl("poseretnet_chunk", TORCH_BOX(&lifter::forward)); }
