#include "train/schedule/exact.h"

#include <fmt/format.h>

#include "base/check.h"
#include "train/schedule/exact_model.h"
#include "train/schedule/exact_solver.h"
#include "train/schedule/validate.h"

namespace holdfast::train {

Result<Planned> plan_exactly(const Problem& problem, Policy policy, double seconds) {
  if (!has_exact_solver()) return fail(ErrorCode::kSolverMissing, "this build has no exact solver");
  ASSIGN_OR_RETURN(Planned fast, plan_step(problem, policy));
  return improve_exactly(problem, std::move(fast), seconds);
}

Result<Planned> improve_exactly(const Problem& problem, Planned planned, double seconds) {
  if (!has_exact_solver()) return fail(ErrorCode::kSolverMissing, "this build has no exact solver");
  ASSIGN_OR_RETURN(const ExactModel model, ExactModel::create(problem, planned));
  if (gap(planned) < 1e-9) return planned;  // nothing can be better
  const Solution solution = solve(model.program(), seconds);
  switch (solution.outcome) {
    case Outcome::kNone:
      return planned;
    case Outcome::kStopped:
      return fail(ErrorCode::kSolverLimit,
                  fmt::format("no proof within {} s; the known plan's gap to the bound is {:.1f}%",
                              seconds, 100 * gap(planned)));
    case Outcome::kBest:
      break;
  }
  planned.plan = model.decode(solution.values);
  const std::vector<std::string> violations = validate(problem, planned.plan);
  CHECK(violations.empty(), "{}", violations.front());
  planned.timing = simulate(problem, planned.plan, barrier_of(planned.policy));
  return planned;
}

}  // namespace holdfast::train
