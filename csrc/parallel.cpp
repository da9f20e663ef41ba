#include "parallel.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

namespace lifter {

void parallel_for_raw(int64_t count, void (*body)(int64_t, int64_t, void*), void* context) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) { body(begin, end, context); });
}

void out_of_memory(int64_t bytes) {
  STD_TORCH_CHECK(false, "lifter: no memory for the ", bytes, " bytes that a kernel works in");
}

void arena_overrun(int64_t used, int64_t size) {
  STD_TORCH_CHECK(false, "lifter: a kernel takes ", used, " floats of an arena that it measured as ", size);
}

}  // namespace lifter
