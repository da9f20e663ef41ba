// causal_conv1d, its gradient and its update on the CPU: layouts, workspaces and outputs around csrc/cpu/causal_conv1d.cpp.
#include "cpu/causal_conv1d.h"

#include "glue.h"

namespace lifter {
namespace {

// A single step lies along its channels whatever its strides say.
bool in_channel_rows(const Tensor& t) { return channels_last(t) || (t.stride(1) == 1 && t.size(2) == 1); }

// `t` in rows of the wanted layout, with a copy if it does not lie so.
Tensor in_rows(const Tensor& t, bool channels_last) {
  if (t.stride(channels_last ? 1 : 2) == 1) return t;
  return channels_last ? swapped(torch::stable::contiguous(swapped(t))) : torch::stable::contiguous(t);
}

Rows rows(const Tensor& t, bool channels_last) { return {t.data_ptr(), t.stride(0), t.stride(channels_last ? 2 : 1)}; }

// (width, dim): the taps of neighbouring channels side by side.
Tensor by_tap(const Tensor& weight) { return torch::stable::contiguous(torch::stable::transpose(weight, 0, 1)); }

// (batch, width, length and its padding): all bits where step l sees step l - k of its own sequence.
Tensor tap_mask(const Tensor& seq_idx_, int64_t width) {
  const Tensor seq_idx = as_contiguous(seq_idx_);
  const int64_t batch = seq_idx.size(0), length = seq_idx.size(1), row = length + kTapMaskPadding;
  const Tensor mask = empty(seq_idx, {batch, width, row}, ScalarType::Int);
  uint32_t* p = output<uint32_t>(mask);
  for (int64_t b = 0; b < batch; ++b) {
    const int32_t* numbers = data<int32_t>(seq_idx) + b * length;
    for (int64_t k = 0; k < width; ++k)
      for (int64_t l = 0; l < row; ++l)
        *p++ = l >= k && l < length && numbers[l] >= 0 && numbers[l - k] == numbers[l] ? ~uint32_t{0} : 0;
  }
  return mask;
}

CausalConv1d convolution(Inputs& in, const Tensor& x_, const Tensor& weight_, const OptionalTensor& bias,
                         const OptionalTensor& seq_idx, const OptionalTensor& initial_states, bool silu) {
  CausalConv1d s{};
  s.channels_last = in_channel_rows(x_), s.silu = silu;
  const Tensor &x = in.keep(in_rows(x_, s.channels_last)), &weight = in.keep(by_tap(weight_));
  s.batch = x.size(0), s.dim = x.size(1), s.length = x.size(2), s.width = weight.size(0);
  s.bfloat16 = is_bfloat16("causal_conv1d", x);
  s.x = rows(x, s.channels_last);
  s.weight = data<float>(weight), s.bias = in.data<float>(bias);
  if (const Tensor* states = in.contiguous(initial_states)) s.initial_states = states->data_ptr();
  if (seq_idx) {
    STD_TORCH_CHECK(!initial_states, "causal_conv1d: seq_idx and initial_states, expected one of them at most");
    s.tap_mask = in.data<uint32_t>(tap_mask(*seq_idx, s.width)), s.tap_mask_stride = s.length + kTapMaskPadding;
  }
  return s;
}

Tensor forward(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& seq_idx,
               const OptionalTensor& initial_states, bool silu) {
  Inputs in;
  const CausalConv1d s = convolution(in, x, weight, bias, seq_idx, initial_states, silu);
  const Tensor out = map_like(x);
  LIFTER_CALL(causal_conv1d_forward, s, out.data_ptr());
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& dout_, const Tensor& x, const Tensor& weight,
                                                    const OptionalTensor& bias, const OptionalTensor& seq_idx,
                                                    const OptionalTensor& initial_states, bool silu) {
  Inputs in;
  const CausalConv1d s = convolution(in, x, weight, bias, seq_idx, initial_states, silu);
  const Tensor dout = in_rows(dout_, s.channels_last), dx = map_like(x);
  const Tensor dweight = empty(x, {s.dim, s.width}, ScalarType::Float);
  const Tensor dbias = bias ? empty(x, {s.dim}, ScalarType::Float) : absent(x);
  const Tensor dinitial = initial_states ? empty(x, {s.batch, s.dim, s.width - 1}, x.scalar_type()) : absent(x);
  // Chosen by shape alone, so that sums never depend on the number of threads.
  const int64_t parts = s.batch * (s.channels_last ? (s.length + kSegment - 1) / kSegment : 1);
  const Tensor partial = empty(x, {parts, s.width + 1, s.dim}, ScalarType::Float);
  const CausalConv1dGradient g{rows(dout, s.channels_last), dx.data_ptr(),        output_or_null<void>(dinitial),
                               output<float>(partial),      parts,                output<float>(dweight),
                               output_or_null<float>(dbias)};
  LIFTER_CALL(causal_conv1d_backward, s, g);
  return {dx, dweight, dbias, dinitial};
}

Tensor update(const Tensor& x, Tensor state, const Tensor& weight_, const OptionalTensor& bias, bool silu,
              const OptionalTensor& cache_seqlens, const OptionalTensor& conv_state_indices) {
  Inputs in;
  const Tensor weight = by_tap(weight_), out = contiguous_like(x);
  CausalConv1dUpdate s{};
  s.batch = x.size(0), s.dim = x.size(1), s.length = x.size(2), s.width = weight.size(0);
  s.states = state.size(2), s.state_rows = state.size(0);
  s.bfloat16 = is_bfloat16("causal_conv1d_update", x), s.silu = silu;
  s.x = x.data_ptr(), s.x_batch = x.stride(0), s.x_channel = x.stride(1), s.x_step = x.stride(2);
  s.state = state.data_ptr();
  s.state_batch = state.stride(0), s.state_channel = state.stride(1), s.state_step = state.stride(2);
  s.weight = data<float>(weight), s.bias = in.data<float>(bias);
  s.cache_seqlens = in.data<int32_t>(cache_seqlens), s.conv_state_indices = in.data<int32_t>(conv_state_indices);
  s.out = out.data_ptr();
  LIFTER_CALL(causal_conv1d_update, s);
  return out;
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) {
  m.impl("causal_conv1d", TORCH_BOX(&lifter::forward));
  m.impl("causal_conv1d_bwd", TORCH_BOX(&lifter::backward));
  m.impl("causal_conv1d_update", TORCH_BOX(&lifter::update));
}
