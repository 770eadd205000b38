// Initial weights: a pure function of (seed, group, element), so that version 0 is the same whatever P,
// D and the owners are.
#pragma once

#include <cstdint>
#include <span>

#include "train/model/parameter_layout.h"

namespace holdfast::train {

// out: range.size() elements of `group` from range.begin on. Normal with TensorSpec::init_stddev; ones
// where that is 0.
void initial_values(uint64_t seed, const GroupSpec& group, ElementRange range,
                    std::span<float> out);

}  // namespace holdfast::train
