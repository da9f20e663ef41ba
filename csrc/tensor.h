// Short names for torch's stable ABI, and the few helpers that every op's glue needs.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <initializer_list>
#include <optional>
#include <vector>

namespace lifter {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType dtype) {
  return torch::stable::new_empty(like, std::vector<int64_t>(shape), dtype);
}

// One copy where the kernels' layout asks for it, none otherwise.
inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }
inline OptionalTensor as_contiguous(const OptionalTensor& t) { return t ? OptionalTensor(as_contiguous(*t)) : std::nullopt; }

inline Tensor swapped(const Tensor& t) { return torch::stable::transpose(t, 1, 2); }

// Whether a map (B, D, L) lies along its channels; `channels_last` in kernels/_op.py is the same.
inline bool channels_last(const Tensor& t) { return t.stride(1) == 1 && t.stride(2) != 1; }

// A new map in the layout of this one.
inline Tensor map_like(const Tensor& t) {
  if (!channels_last(t)) return empty(t, {t.size(0), t.size(1), t.size(2)}, t.scalar_type());
  return swapped(empty(t, {t.size(0), t.size(2), t.size(1)}, t.scalar_type()));
}

inline Tensor absent(const Tensor& like) { return empty(like, {0}, ScalarType::Float); }

template <class T>
const T* data(const Tensor& t) { return static_cast<const T*>(t.data_ptr()); }
template <class T>
const T* data(const OptionalTensor& t) { return t ? data<T>(*t) : nullptr; }
template <class T>
T* output(const Tensor& t) { return static_cast<T*>(t.data_ptr()); }
// The data of an output that may be `absent`.
template <class T>
T* output_or_null(const Tensor& t) { return t.numel() ? output<T>(t) : nullptr; }

// True for bfloat16, false for float32; the kernels have no other dtype.
inline bool is_bfloat16(const char* op, const Tensor& t) {
  const bool bf16 = t.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(bf16 || t.scalar_type() == ScalarType::Float, op, ": the CPU kernels take float32 and bfloat16");
  return bf16;
}

}  // namespace lifter
