// The second half of a sum over many tasks: what they have summed by themselves.
#include "sum_partials.h"

#include "reduce.h"

namespace lifter::LIFTER_CAPABILITY {

void sum_partials(const float* partial, int64_t parts, int64_t size, float* out) {
  sum_parts(partial, parts, size, size, out);
}

}  // namespace lifter::LIFTER_CAPABILITY
