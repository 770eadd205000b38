// The solver behind exact.h: exact_cbc.cpp with COIN-OR CBC, exact_absent.cpp without.
#pragma once

#include <vector>

#include "train/schedule/exact_model.h"

namespace holdfast::train {

enum class Outcome : uint8_t {
  kBest,     // values are the best there are
  kNone,     // there are none
  kStopped,  // neither is proven
};

struct Solution {
  Outcome outcome = Outcome::kStopped;
  std::vector<double> values;  // by column
};

// At most `seconds` long.
Solution solve(const MixedIntegerProgram& program, double seconds);

}  // namespace holdfast::train
