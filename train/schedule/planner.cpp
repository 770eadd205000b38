#include "train/schedule/planner.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "train/schedule/search.h"
#include "train/schedule/validate.h"

namespace holdfast::train {
namespace {

// Drafts that a plan may cost: a step of a few hundred rounds is tried some thousand times, the
// largest ones a few hundred times, so that both take well under a second.
constexpr uint32_t kMostTries = 2000;
constexpr uint64_t kMostWork = 30'000'000;  // nodes visited

uint32_t affordable_tries(const Problem& problem) {
  uint64_t rounds = 0;
  for (const StageProblem& stage : problem.stages)
    rounds += 3 * (problem.total() / stage.lanes.size() + 1);
  const uint64_t work = rounds * (problem.stages.size() + 8);
  return static_cast<uint32_t>(std::clamp<uint64_t>(kMostWork / work, 50, kMostTries));
}

Status check_1f1b(const Problem& problem) {
  for (size_t s = 0; s < problem.stages.size(); ++s)
    if (problem.stages[s].lanes.size() < problem.pipelines)
      return fail(ErrorCode::kPlanImpossible,
                  fmt::format("1f1b needs every lane, stage {} has {} of {}; reroute, split and "
                              "staggered do without",
                              s, problem.stages[s].lanes.size(), problem.pipelines));
  return {};
}

// Micro-batches in flight of stage s: S - s, and then B and F in turn.
Draft draft_1f1b(const Problem& problem) {
  Style style;
  style.coupled = true;
  const auto stages = static_cast<uint32_t>(problem.stages.size());
  for (uint32_t s = 0; s < stages; ++s) {
    StageStyle one;
    one.forward_first = true;
    one.limit = std::min(stages - s, problem.stages[s].cap);
    style.stages.push_back(one);
  }
  return draft_step(problem, style);
}

}  // namespace

std::string_view name_of(Policy policy) {
  switch (policy) {
    case Policy::kOneForwardOneBackward:
      return "1f1b";
    case Policy::kReroute:
      return "reroute";
    case Policy::kSplit:
      return "split";
    case Policy::kStaggered:
      return "staggered";
  }
  CHECK(false, "policy {}", static_cast<int>(policy));
}

Result<Planned> plan_step(const Problem& problem, Policy policy) {
  return plan_step(problem, policy, kMostTries);
}

Result<Planned> plan_step(const Problem& problem, Policy policy, uint32_t most_tries) {
  RETURN_IF_ERROR(check_problem(problem));
  Planned planned;
  planned.policy = policy;
  Problem bounded = problem;
  if (coupled(policy))
    for (StageProblem& stage : bounded.stages) stage.costs = as_coupled(stage.costs);
  planned.bounds = lower_bounds(bounded);
  if (policy == Policy::kOneForwardOneBackward) {
    RETURN_IF_ERROR(check_1f1b(problem));
    planned.plan = to_plan(problem, draft_1f1b(problem));
    planned.tries = 1;
  } else {
    StyleSearch search(problem, coupled(policy), barrier_of(policy), planned.bounds,
                       std::min(most_tries, affordable_tries(problem)));
    planned.plan = to_plan(problem, search.run());
    planned.tries = search.tries();
  }
  const std::vector<std::string> violations = validate(problem, planned.plan);
  CHECK(violations.empty(), "{}", violations.front());
  planned.timing = simulate(problem, planned.plan, barrier_of(policy));
  return planned;
}

double gap(const Planned& planned) {
  const bool steady = barrier_of(planned.policy) == Barrier::kPerStage;
  const double bound = steady ? planned.bounds.period : planned.bounds.makespan;
  return (steady ? planned.timing.period : planned.timing.makespan) / bound - 1;
}

}  // namespace holdfast::train
