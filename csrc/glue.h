// The glue between torch and the kernels, for every op's file: short names for torch's stable ABI, layouts, dtypes, and the
// tensors that a kernel reads.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <deque>
#include <initializer_list>
#include <optional>
#include <vector>

#include "capability.h"
#include "cpu/layout.h"
#include "cpu/sum_partials.h"

namespace lifter {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// ---- dtypes ----------------------------------------------------------------------------------------------------------

// True for bfloat16, false for float32; the kernels have no other dtype.
inline bool is_bfloat16(const char* op, const Tensor& t) {
  const bool bf16 = t.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(bf16 || t.scalar_type() == ScalarType::Float, op, ": the CPU kernels take float32 and bfloat16");
  return bf16;
}

// The same for kernels that multiply bfloat16 as such where the machine can.
inline Precision precision_of(const char* op, const Tensor& t) {
  if (!is_bfloat16(op, t)) return Precision::float32;
  return capability() == Capability::avx512_bf16 ? Precision::bfloat16_pairs : Precision::bfloat16;
}

// ---- inputs ----------------------------------------------------------------------------------------------------------

// One copy where a kernel asks for contiguous memory, none otherwise.
inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.data_ptr());
}

// Keeps the tensors that a kernel reads for as long as it does.
class Inputs {
 public:
  const Tensor& keep(Tensor t) { return kept_.emplace_back(std::move(t)); }

  const Tensor& contiguous(const Tensor& t) { return keep(as_contiguous(t)); }
  const Tensor* contiguous(const OptionalTensor& t) { return t ? &contiguous(*t) : nullptr; }

  // As it is if the elements of its last dimension lie together.
  const Tensor& contiguous_channels(const Tensor& t) {
    return keep(t.stride(t.dim() - 1) == 1 ? t : torch::stable::contiguous(t));
  }
  const Tensor* contiguous_channels(const OptionalTensor& t) { return t ? &contiguous_channels(*t) : nullptr; }

  // The elements of a contiguous tensor, null if there is none.
  template <class T>
  const T* data(const Tensor& t) {
    return lifter::data<T>(contiguous(t));
  }
  template <class T>
  const T* data(const OptionalTensor& t) {
    return t ? data<T>(*t) : nullptr;
  }

 private:
  std::deque<Tensor> kept_;  // whose elements stay where they are when it grows
};

// Returns the strides of a pose map (clips, frames, joints, ...): its rows are joints and its tokens frames, or the other way
// round. `head` is the dimension of the heads, if there is one.
inline Strides token_strides(const Tensor& t, int64_t head = -1, bool rows_are_joints = true) {
  const int64_t frame = t.stride(1), joint = t.stride(2);
  return {t.stride(0), rows_are_joints ? joint : frame, rows_are_joints ? frame : joint, head < 0 ? 0 : t.stride(head)};
}

// ---- outputs ---------------------------------------------------------------------------------------------------------

inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType dtype) {
  return torch::stable::new_empty(like, std::vector<int64_t>(shape), dtype);
}

// A new contiguous tensor of the shape and dtype of this one.
inline Tensor contiguous_like(const Tensor& t) {
  return torch::stable::new_empty(t, std::vector<int64_t>(t.sizes().begin(), t.sizes().end()), t.scalar_type());
}

// An empty tensor: it stands for an output that nobody wants.
inline Tensor absent(const Tensor& like) { return empty(like, {0}, ScalarType::Float); }

template <class T>
T* output(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}
// The data of an output that may be `absent`.
template <class T>
T* output_or_null(const Tensor& t) {
  return t.numel() ? output<T>(t) : nullptr;
}

// (parts, ...) to their sum, in order.
inline Tensor sum_over(const Tensor& partial, int64_t parts, std::initializer_list<int64_t> shape) {
  const Tensor out = empty(partial, shape, ScalarType::Float);
  LIFTER_CALL(sum_partials, data<float>(partial), parts, out.numel(), output<float>(out));
  return out;
}

// ---- maps (batch, channels, length) ----------------------------------------------------------------------------------

inline Tensor swapped(const Tensor& t) { return torch::stable::transpose(t, 1, 2); }

// Whether the map lies along its channels; `channels_last` in kernels/_layout.py is the same.
inline bool channels_last(const Tensor& t) { return t.stride(1) == 1 && t.stride(2) != 1; }

// A new map in the layout of this one. It is no view of another tensor: autograd lets callers change it in place.
inline Tensor map_like(const Tensor& t) {
  using torch::stable::detail::from;
  const int64_t dim = t.size(1), length = t.size(2);
  const std::vector<int64_t> sizes{t.size(0), dim, length};
  const bool last = channels_last(t);
  const std::vector<int64_t> strides{dim * length, last ? 1 : length, last ? dim : 1};
  const auto same = from(std::nullopt);  // dtype, layout, device and pinning
  std::array<StableIValue, 7> stack{from(t), from(sizes), from(strides), same, same, same, same};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::new_empty_strided", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace lifter
