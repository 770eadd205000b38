// A plan as one lane of it runs it: its own work in every round, whom it gets what from and hands it on
// to, and where what an I round needs was left. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "train/schedule/plan.h"
#include "train/step/members.h"

namespace holdfast::train {

// How long the operations of a round are to take on this lane, in ms; 0: what they take.
struct SyntheticTimes {
  double forward = 0, input_gradient = 0, weights = 0;  // dense parts of what the lane runs
  double experts = 0;         // of F or I: of what is sent to the experts hosted here
  double expert_weights = 0;  // of all I rounds whose expert W is done
  bool operator==(const SyntheticTimes&) const = default;
};

struct LaneRound {
  Work work = Work::kForward;  // of the stage group, which talks in all rounds but those of W
  // F, I or B: this lane's, nullopt: none.
  std::optional<MicroBatchIndex> micro_batch;
  uint32_t busy = 0;  // lanes that have one
  std::optional<uint32_t> from, to;  // members that have its input, and that go on with its output
  // Whose dense W this lane computes then; in a B round its own.
  std::optional<MicroBatchIndex> weights;

  // I and B: of every lane's micro-batch, the number of the F round that it ran in.
  std::vector<std::optional<uint32_t>> forward_rounds;
  // That round had these micro-batches and no others.
  bool as_forward = false;
  // Numbers among I and B rounds, whose expert W every lane computes last.
  std::vector<uint32_t> experts;

  SyntheticTimes synthetic;
};

// Of a plan that keeps all rules (schedule/validate.h). F rounds, and I and B rounds, are numbered in the
// order of the plan.
std::vector<LaneRound> rounds_of_lane(const Plan& plan, const Members& members, uint32_t stage,
                                      uint32_t lane);

// Fills in `synthetic` of all rounds of a lane in a group of so many, as simulate() counts it
// (schedule/simulate.h).
void set_synthetic_times(std::vector<LaneRound>& rounds, uint32_t lanes,
                         const conf::SyntheticConfig& times);

// The most micro-batches that the lane holds at once, from its F to its dense W, and the most rounds of
// which it holds rows for experts, from their F or, where they are put together anew, their I to their
// expert W. For a group of one lane.
struct MostHeld {
  uint32_t micro_batches = 0, rounds = 0;
};
MostHeld most_held(const std::vector<LaneRound>& rounds);

}  // namespace holdfast::train
