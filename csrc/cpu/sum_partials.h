#pragma once
#include "../capability.h"

// out[i] = sum over p of partial[p][i], in order, for i < size.
LIFTER_KERNEL(void sum_partials(const float* partial, int64_t parts, int64_t size, float* out))
