// Attention and retention are many small problems, one per (clip, row, head).
#pragma once
#include "../parallel.h"
#include "layout.h"
#include "simd.h"

namespace lifter::LIFTER_CAPABILITY {

struct WorkItem {
  WorkItem(int64_t rows, int64_t heads, int64_t n)
      : head(n % heads), row(n / heads % rows), batch(n / heads / rows), number(n) {}
  int64_t head, row, batch, number;

  int64_t offset(const Strides& strides, int64_t token = 0) const {
    return batch * strides.batch + row * strides.row + token * strides.token + head * strides.head;
  }
};

// Work(arguments...), made once per thread, is called with every problem and the one that it does next (at last the same).
template <class Work, class... Arguments>
static void each_work_item(int64_t batch, int64_t rows, int64_t heads, const Arguments&... arguments) {
  parallel_ranges(batch * rows * heads, [&](int64_t begin, int64_t end) {
    if (begin == end) return;
    const FlushDenormals flush;
    Work work(arguments...);
    for (int64_t n = begin; n < end; ++n) work(WorkItem(rows, heads, n), WorkItem(rows, heads, smaller(n + 1, end - 1)));
  });
}

}  // namespace lifter::LIFTER_CAPABILITY
