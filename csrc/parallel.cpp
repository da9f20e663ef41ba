#include "parallel.h"

#include <torch/csrc/stable/ops.h>

namespace lifter {

void parallel_for_raw(int64_t count, void (*body)(int64_t, int64_t, void*), void* context) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) { body(begin, end, context); });
}

}  // namespace lifter
