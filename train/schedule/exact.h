// The true optimum for small problems: a mixed-integer program (exact_model.h), solved by COIN-OR
// CBC where the build found it. A library of its own, so that nothing else is linked with the
// solver.
#pragma once

#include "base/result.h"
#include "train/schedule/planner.h"

namespace holdfast::train {

bool has_exact_solver();

// The best plan there is: the fast planner's when the solver proves that none is better. What
// "best" is stands at plan_step.
//   kSolverMissing   this build has no solver
//   kPlanImpossible  as plan_step; also costs that are not whole numbers, experts that cost
//   something,
//                    and 1f1b, which is one fixed order
//   kSolverLimit     too large, or no proof within `seconds`
Result<Planned> plan_exactly(const Problem& problem, Policy policy, double seconds);
// The best plan with the policy of `start`, which is known already; `start` when none is better.
Result<Planned> improve_exactly(const Problem& problem, Planned start, double seconds);

}  // namespace holdfast::train
