// The fast planner: rounds for one step on the live lanes, with what they take and what no plan can
// beat. Pure and deterministic: the same problem gives the same plan. Re-routing over data-parallel
// peers, split backward and staggered update are those of ReCycle (arXiv 2405.14009, section 4).
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"
#include "train/schedule/bounds.h"
#include "train/schedule/plan.h"
#include "train/schedule/problem.h"
#include "train/schedule/simulate.h"

namespace holdfast::train {

struct Planned {
  Policy policy = Policy::kStaggered;
  Plan plan;
  Timing timing;
  Bounds bounds;       // for the policy's kinds of rounds
  uint32_t tries = 0;  // drafts that were compared
};

std::string_view name_of(Policy policy);  // "1f1b"

// kPlanImpossible: the problem is none (check_problem), or 1f1b with a lane missing. A plan always
// passes validate. Staggered plans are made for the shortest period, all others for the shortest
// makespan; among equals the other of the two, then less memory.
Result<Planned> plan_step(const Problem& problem, Policy policy);
// The same with an upper limit to the drafts tried, for callers that plan very often.
Result<Planned> plan_step(const Problem& problem, Policy policy, uint32_t most_tries);

// How far above the bound that its policy aims at, 0.05 for 5%.
double gap(const Planned& planned);

}  // namespace holdfast::train
