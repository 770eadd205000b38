#include "train/step/lane_rounds.h"

#include <algorithm>

#include "base/check.h"
#include "train/schedule/places.h"

namespace holdfast::train {
namespace {

uint32_t busy(const StageRound& round, Work work) {
  return static_cast<uint32_t>(std::count_if(
      round.lanes.begin(), round.lanes.end(),
      [&](const auto& cell) { return cell && cell->work == work; }));
}

// The member that runs a micro-batch at a neighbouring stage; nullopt: there is no such stage.
std::optional<uint32_t> runs(const std::vector<StagePlaces>& places, const Members& members,
                             uint32_t stage, MicroBatchIndex micro_batch) {
  if (stage >= places.size()) return std::nullopt;  // before the first, too
  const Place& place = places[stage].micro_batches[micro_batch.value].forward;
  CHECK(place.known());
  return members.member(stage, place.lane);
}

// Which F round each lane's micro-batch of an I or B round ran in. forward_number: of every round.
void look_back(const StagePlan& plan, const StagePlaces& places, const StageRound& round,
               const std::vector<uint32_t>& forward_number, LaneRound& mine) {
  uint32_t last = kNowhere;
  bool one = true;
  for (uint32_t lane = 0; lane < round.lanes.size(); ++lane) {
    const auto& cell = round.lanes[lane];
    mine.forward_rounds.emplace_back();
    if (!cell || cell->work != round.work) continue;
    const Place& forward = places.micro_batches[cell->micro_batch.value].forward;
    CHECK(forward.known() && forward.lane == lane);
    one = one && (last == kNowhere || last == forward.round);
    last = forward.round;
    mine.forward_rounds.back() = forward_number[forward.round];
  }
  mine.as_forward = one && last != kNowhere &&
                    busy(plan.rounds[last], Work::kForward) == busy(round, round.work);
}

}  // namespace

std::vector<LaneRound> rounds_of_lane(const Plan& plan, const Members& members, uint32_t stage,
                                      uint32_t lane) {
  const std::vector<StagePlaces> places = places_of(plan);
  const StagePlan& mine = plan.stages[stage];
  std::vector<uint32_t> forward_number(mine.rounds.size());
  uint32_t forwards = 0, gradients = 0;
  std::vector<LaneRound> rounds;
  for (size_t r = 0; r < mine.rounds.size(); ++r) {
    const StageRound& round = mine.rounds[r];
    LaneRound& out = rounds.emplace_back();
    out.work = round.work;
    out.busy = busy(round, round.work);
    out.experts = round.experts;
    if (const auto& cell = round.lanes[lane]) {
      const bool backward = cell->work == Work::kInputGradient || cell->work == Work::kBackward;
      if (cell->work == Work::kForward || backward) {
        out.micro_batch = cell->micro_batch;
        out.from = runs(places, members, backward ? stage + 1 : stage - 1, cell->micro_batch);
        out.to = runs(places, members, backward ? stage - 1 : stage + 1, cell->micro_batch);
      }
      if (cell->work == Work::kWeightGradient || cell->work == Work::kBackward)
        out.weights = cell->micro_batch;
    }
    switch (round.work) {
      case Work::kForward:
        forward_number[r] = forwards++;
        break;
      case Work::kBackward:
        out.experts.push_back(gradients);
        [[fallthrough]];
      case Work::kInputGradient:
        look_back(mine, places[stage], round, forward_number, out);
        ++gradients;
        break;
      case Work::kWeightGradient:
        break;
    }
  }
  return rounds;
}

void set_synthetic_times(std::vector<LaneRound>& rounds, uint32_t lanes,
                         const conf::SyntheticConfig& times) {
  std::vector<double> expert_weights;  // of each I or B round
  const auto share = [&](const LaneRound& round) { return times.experts_ms * round.busy / lanes; };
  for (const LaneRound& round : rounds)
    if (round.work == Work::kInputGradient || round.work == Work::kBackward)
      expert_weights.push_back(share(round));
  for (LaneRound& round : rounds) {
    SyntheticTimes& out = round.synthetic;
    if (round.work == Work::kForward && round.micro_batch) out.forward = times.forward_ms;
    if (round.work != Work::kForward && round.micro_batch)
      out.input_gradient = times.input_gradient_ms;
    if (round.weights) out.weights = times.weight_gradient_ms;
    if (round.work != Work::kWeightGradient) out.experts = share(round);
    for (const uint32_t number : round.experts) out.expert_weights += expert_weights.at(number);
  }
}

MostHeld most_held(const std::vector<LaneRound>& rounds) {
  MostHeld now, most;
  for (const LaneRound& round : rounds) {
    if (round.work == Work::kForward) {
      ++now.rounds;
      if (round.micro_batch) ++now.micro_batches;
    }
    most = {std::max(most.micro_batches, now.micro_batches), std::max(most.rounds, now.rounds)};
    if (round.weights) --now.micro_batches;
    now.rounds -= static_cast<uint32_t>(round.experts.size());
  }
  return most;
}

}  // namespace holdfast::train
