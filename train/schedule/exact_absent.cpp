#include "base/check.h"
#include "train/schedule/exact.h"
#include "train/schedule/exact_solver.h"

namespace holdfast::train {

bool has_exact_solver() { return false; }

Solution solve(const MixedIntegerProgram&, double) { CHECK(false, "there is no solver to ask"); }

}  // namespace holdfast::train
