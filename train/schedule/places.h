// Where a plan does what: by stage and micro-batch, the round and lane of its F, I and W. For plans
// that may be wrong; of work that is done twice the first place counts.
#pragma once

#include <cstdint>
#include <vector>

#include "train/schedule/plan.h"

namespace holdfast::train {

inline constexpr uint32_t kNowhere = UINT32_MAX;

struct Place {
  uint32_t round = kNowhere;
  uint32_t lane = kNowhere;
  bool known() const { return round != kNowhere; }
};

struct MicroBatchPlaces {
  Place forward;
  Place gradient;  // of I, or B
  Place weight;    // of dense W, or B
};

struct StagePlaces {
  std::vector<MicroBatchPlaces> micro_batches;
  std::vector<uint32_t> gradient_rounds;  // I and B rounds by number
  std::vector<uint32_t> expert_rounds;    // by number of I or B round: the round of its expert W
};

// Cells with numbers from `total` on are left out.
StagePlaces places_of(const StagePlan& stage, uint32_t total);
std::vector<StagePlaces> places_of(const Plan& plan);

// The round at whose end a lane no longer holds the micro-batch: dense W done, and expert W where
// there are experts; kNowhere if never.
uint32_t release_round(const StagePlaces& places, uint32_t micro_batch, bool experts);

}  // namespace holdfast::train
