#pragma once
#include "../capability.h"

LIFTER_KERNEL(void exponentials(int64_t count))
