// How long a plan takes, and what it holds in memory. Pure.
#pragma once

#include <vector>

#include "train/schedule/problem.h"

namespace holdfast::train {

struct Timing {
  double makespan = 0;  // one step from all stages ready to the end of the last update
  double period = 0;    // of repeated steps
  std::vector<std::vector<double>> start;     // by stage and round
  std::vector<std::vector<double>> duration;  // by stage and round
  std::vector<double> update_start;           // by stage
  std::vector<std::vector<uint32_t>> peak;    // micro-batches in flight, by stage and lane
};

// The time of a round: the longest dense work of its lanes, and on every lane the experts' share of
// what is sent to them. `experts_share`: micro-batches / lanes of the I rounds in round.experts,
// summed.
double round_duration(const StageCosts& costs, const StageRound& round, double experts_share);

// A result travels costs.send beside the rounds and is never late for another reason: links are not
// modelled as shared. `plan` has passed validate.
Timing simulate(const Problem& problem, const Plan& plan, Barrier barrier);

}  // namespace holdfast::train
