// The rounds of one step for one set of live lanes, S = 1: which lane runs which micro-batch when.
// Pure. Every lane takes part in every round; a lane without a micro-batch runs its slots' share.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/ids.h"
#include "train/schedule/plan.h"

namespace holdfast::train {

struct Round {
  std::vector<std::optional<MicroBatchIndex>> lanes;  // by lane
  bool operator==(const Round&) const = default;
};

// Micro-batch j (0 .. D*M-1) has home pipeline j mod D. Live lanes keep their own; the work of dead
// pipelines is spread evenly over the live lanes (ReCycle, arXiv 2405.14009, section 4.1), so a step has
// ceil(D*M / c) rounds. `coordinates`: the pipeline of each live lane, ascending.
std::vector<Round> plan_rounds(uint32_t pipelines, uint32_t micro_batches,
                               std::span<const uint32_t> coordinates);

// The same out of a plan (planner.h), for one stage: its F rounds, in order. A plan for S = 1 takes the
// place of plan_rounds like this, because a trainer that does F, I and W of a micro-batch in one go needs
// only to know which lane runs what beside what; the plan's own I and W rounds are for an executor.
std::vector<Round> forward_rounds(const StagePlan& stage);

}  // namespace holdfast::train
