// alternating_transformer on the CPU: mask, xPos tables, states and output around csrc/cpu/alternating_transformer.cpp.
#include "cpu/alternating_transformer.h"

#include "attention_mask.h"
#include "glue.h"
#include "rotary_tables.h"

namespace lifter {
namespace {

std::tuple<Tensor, std::vector<Tensor>> forward(const Tensor& x_, const Tensor& weights, const Tensor& vectors,
                                                const OptionalTensor& mask, const OptionalTensor& xpos_scale,
                                                std::vector<Tensor> states, int64_t positions, int64_t hidden, int64_t heads,
                                                int64_t depth, double scale, int64_t chunk, bool causal, bool return_state) {
  Inputs in;
  const Tensor& x = in.contiguous(x_);
  AlternatingTransformer s{};
  s.batch = x.size(0), s.frames = x.size(1), s.joints = x.size(2), s.dim = x.size(3);
  s.hidden = hidden, s.heads = heads, s.depth = depth, s.positions = positions;
  s.scale = static_cast<float>(scale), s.epsilon = 1e-6f;
  s.precision = precision_of("alternating_transformer", x);
  s.x = x.data_ptr(), s.weights = in.contiguous(weights).data_ptr(), s.vectors = in.data<float>(vectors);
  STD_TORCH_CHECK(s.dim % 2 == 0, "alternating_transformer: x has ", s.dim, " channels, expected an even number");
  set_mask(in, mask, s.along_frames);

  const int64_t head = s.dim / heads;
  std::vector<const float*> before;
  std::vector<float*> after;
  std::vector<Tensor> finals;
  if (xpos_scale) {
    s.retains = true, s.causal = causal, s.chunk = chunk < s.frames ? chunk : s.frames;
    s.rotary = in.data<float>(rotary_tables(*xpos_scale, head, s.chunk)), s.rotary_row = rotary_width(head);
  }
  for (const Tensor& state : states) before.push_back(in.data<float>(state));
  for (int64_t i = 0; return_state && i < depth; ++i) {
    finals.push_back(empty(x, {s.batch, s.joints, heads, head, head}, ScalarType::Float));
    after.push_back(output<float>(finals.back()));
  }
  s.states = states.empty() ? nullptr : before.data();
  s.finals = return_state ? after.data() : nullptr;
  const Tensor poses = empty(x, {s.batch, s.frames, s.joints, 3}, x.scalar_type());
  LIFTER_CALL(alternating_transformer_forward, s, poses.data_ptr());
  return {poses, finals};
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) { m.impl("alternating_transformer", TORCH_BOX(&lifter::forward)); }
