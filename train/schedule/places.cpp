#include "train/schedule/places.h"

#include <algorithm>

namespace holdfast::train {
namespace {

void note(Place& place, uint32_t round, uint32_t lane) {
  if (!place.known()) place = {round, lane};
}

void note_cell(MicroBatchPlaces& places, Work work, uint32_t round, uint32_t lane) {
  switch (work) {
    case Work::kForward:
      note(places.forward, round, lane);
      break;
    case Work::kInputGradient:
      note(places.gradient, round, lane);
      break;
    case Work::kWeightGradient:
      note(places.weight, round, lane);
      break;
    case Work::kBackward:
      note(places.gradient, round, lane);
      note(places.weight, round, lane);
      break;
  }
}

}  // namespace

StagePlaces places_of(const StagePlan& stage, uint32_t total) {
  StagePlaces places;
  places.micro_batches.resize(total);
  for (uint32_t r = 0; r < stage.rounds.size(); ++r) {
    const StageRound& round = stage.rounds[r];
    for (uint32_t lane = 0; lane < round.lanes.size(); ++lane)
      if (const auto& cell = round.lanes[lane]; cell && cell->micro_batch.value < total)
        note_cell(places.micro_batches[cell->micro_batch.value], cell->work, r, lane);
    if (round.work == Work::kInputGradient || round.work == Work::kBackward) {
      places.gradient_rounds.push_back(r);
      places.expert_rounds.push_back(round.work == Work::kBackward ? r : kNowhere);
    }
    for (const uint32_t number : round.experts)
      if (number < places.expert_rounds.size() && places.expert_rounds[number] == kNowhere)
        places.expert_rounds[number] = r;
  }
  return places;
}

std::vector<StagePlaces> places_of(const Plan& plan) {
  std::vector<StagePlaces> all;
  for (const StagePlan& stage : plan.stages)
    all.push_back(places_of(stage, plan.pipelines * plan.micro_batches));
  return all;
}

uint32_t release_round(const StagePlaces& places, uint32_t micro_batch, bool experts) {
  const MicroBatchPlaces& one = places.micro_batches[micro_batch];
  if (!one.gradient.known() || !one.weight.known()) return kNowhere;
  if (!experts) return one.weight.round;
  const auto number = std::lower_bound(places.gradient_rounds.begin(), places.gradient_rounds.end(),
                                       one.gradient.round) -
                      places.gradient_rounds.begin();
  // kNowhere is the largest number: expert W that is never done is never through.
  return std::max(one.weight.round, places.expert_rounds[static_cast<size_t>(number)]);
}

}  // namespace holdfast::train
