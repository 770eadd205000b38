#include "train/schedule/validate.h"

#include <fmt/format.h>

#include <array>

#include "train/schedule/text.h"

namespace holdfast::train {
namespace {

using Violations = std::vector<std::string>;

// Before anything else: sizes, so that the other checks may index.
Violations shape_violations(const Problem& problem, const Plan& plan) {
  Violations all;
  if (plan.pipelines != problem.pipelines || plan.micro_batches != problem.micro_batches)
    all.push_back(fmt::format("it is for {} pipelines of {} micro-batches, not {} of {}",
                              plan.pipelines, plan.micro_batches, problem.pipelines,
                              problem.micro_batches));
  if (plan.stages.size() != problem.stages.size())
    all.push_back(
        fmt::format("it has {} stages, not {}", plan.stages.size(), problem.stages.size()));
  for (size_t s = 0; s < std::min(plan.stages.size(), problem.stages.size()); ++s) {
    if (plan.stages[s].lanes != problem.stages[s].lanes)
      all.push_back(fmt::format("stage {}: its lanes are not the live ones", s));
    for (size_t r = 0; r < plan.stages[s].rounds.size(); ++r)
      if (plan.stages[s].rounds[r].lanes.size() != plan.stages[s].lanes.size())
        all.push_back(fmt::format("stage {} round {}: {} entries for {} lanes", s, r,
                                  plan.stages[s].rounds[r].lanes.size(),
                                  plan.stages[s].lanes.size()));
  }
  return all;
}

bool fits(Work cell, Work round) { return cell == round || cell == Work::kWeightGradient; }

// Counts F, I and W of every micro-batch of one stage.
void check_cells(const StagePlan& stage, size_t s, uint32_t total, Violations& all) {
  std::vector<std::array<uint32_t, 3>> times(total, {0, 0, 0});
  for (size_t r = 0; r < stage.rounds.size(); ++r) {
    for (const auto& cell : stage.rounds[r].lanes) {
      if (!cell) continue;
      const std::string at = fmt::format("stage {} round {}: {}", s, r, to_text(*cell));
      if (!fits(cell->work, stage.rounds[r].work))
        all.push_back(fmt::format("{} in a round of {}", at, letter(stage.rounds[r].work)));
      if (cell->micro_batch.value >= total) {
        all.push_back(fmt::format("{}, there are {} micro-batches", at, total));
        continue;
      }
      auto& of = times[cell->micro_batch.value];
      if (cell->work == Work::kForward) ++of[0];
      if (cell->work == Work::kInputGradient || cell->work == Work::kBackward) ++of[1];
      if (cell->work == Work::kWeightGradient || cell->work == Work::kBackward) ++of[2];
    }
  }
  for (uint32_t j = 0; j < total; ++j)
    for (size_t kind = 0; kind < 3; ++kind)
      if (times[j][kind] != 1)
        all.push_back(
            fmt::format("stage {}: {}{} is done {} times", s, "FIW"[kind], j, times[j][kind]));
}

void check_lanes_and_turns(const StagePlan& stage, size_t s, const StagePlaces& places,
                           Violations& all) {
  for (size_t j = 0; j < places.micro_batches.size(); ++j) {
    const auto& [forward, gradient, weight] = places.micro_batches[j];
    if (!forward.known() || !gradient.known() || !weight.known()) continue;
    if (gradient.lane != forward.lane || weight.lane != forward.lane)
      all.push_back(fmt::format("stage {}: micro-batch {} changes its lane", s, j));
    if (gradient.round <= forward.round)
      all.push_back(fmt::format("stage {}: I{} is not after F{}", s, j, j));
    const bool both = stage.rounds[gradient.round].work == Work::kBackward;
    if (weight.round < gradient.round || (weight.round == gradient.round && !both))
      all.push_back(fmt::format("stage {}: W{} is not after I{}", s, j, j));
  }
}

void check_experts(const StagePlan& stage, size_t s, const StagePlaces& places, Violations& all) {
  std::vector<uint32_t> times(places.gradient_rounds.size(), 0);
  for (uint32_t r = 0; r < stage.rounds.size(); ++r)
    for (const uint32_t number : stage.rounds[r].experts) {
      if (number >= times.size()) {
        all.push_back(fmt::format("stage {} round {}: e{}, there are {} I rounds", s, r, number,
                                  times.size()));
        continue;
      }
      ++times[number];
      if (r <= places.gradient_rounds[number])
        all.push_back(
            fmt::format("stage {} round {}: e{} is not after I round {}", s, r, number, number));
    }
  for (uint32_t number = 0; number < times.size(); ++number) {
    const bool both = stage.rounds[places.gradient_rounds[number]].work == Work::kBackward;
    if (times[number] != (both ? 0u : 1u))
      all.push_back(fmt::format("stage {}: e{} is named {} times{}", s, number, times[number],
                                both ? ", its round is a B round" : ""));
  }
}

}  // namespace

std::vector<std::vector<uint32_t>> peak_micro_batches(const Problem& problem, const Plan& plan,
                                                      const std::vector<StagePlaces>& places) {
  std::vector<std::vector<uint32_t>> peaks;
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    const StagePlan& stage = plan.stages[s];
    const bool experts = problem.stages[s].costs.weight.expert > 0;
    std::vector<std::vector<uint32_t>> released(stage.rounds.size());  // lanes, by round
    for (uint32_t j = 0; j < places[s].micro_batches.size(); ++j)
      if (const uint32_t round = release_round(places[s], j, experts); round != kNowhere)
        released[round].push_back(places[s].micro_batches[j].forward.lane);
    std::vector<uint32_t> held(stage.lanes.size(), 0);
    std::vector<uint32_t> peak = held;
    for (size_t r = 0; r < stage.rounds.size(); ++r) {
      for (size_t lane = 0; lane < stage.rounds[r].lanes.size(); ++lane)
        if (const auto& cell = stage.rounds[r].lanes[lane]; cell && cell->work == Work::kForward)
          peak[lane] = std::max(peak[lane], ++held[lane]);
      for (const uint32_t lane : released[r]) --held[lane];
    }
    peaks.push_back(std::move(peak));
  }
  return peaks;
}

std::vector<std::string> memory_violations(const Problem& problem, const Plan& plan,
                                           const std::vector<StagePlaces>& places) {
  Violations all;
  const auto peaks = peak_micro_batches(problem, plan, places);
  for (size_t s = 0; s < peaks.size(); ++s)
    for (size_t lane = 0; lane < peaks[s].size(); ++lane)
      if (peaks[s][lane] > problem.stages[s].cap)
        all.push_back(fmt::format("lane {}:{} holds {} micro-batches, its cap is {}",
                                  plan.stages[s].lanes[lane], s, peaks[s][lane],
                                  problem.stages[s].cap));
  return all;
}

std::vector<std::string> validate(const Problem& problem, const Plan& plan) {
  Violations all = shape_violations(problem, plan);
  if (!all.empty()) return all;
  const std::vector<StagePlaces> places = places_of(plan);
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    check_cells(plan.stages[s], s, problem.total(), all);
    check_lanes_and_turns(plan.stages[s], s, places[s], all);
    check_experts(plan.stages[s], s, places[s], all);
  }
  if (!all.empty()) return all;  // what follows relies on every cell being there
  all = memory_violations(problem, plan, places);
  const Violations order = order_violations(plan, places);
  all.insert(all.end(), order.begin(), order.end());
  return all;
}

}  // namespace holdfast::train
