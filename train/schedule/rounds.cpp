#include "train/schedule/rounds.h"

#include <algorithm>

#include "base/check.h"

namespace holdfast::train {

std::vector<Round> plan_rounds(uint32_t pipelines, uint32_t micro_batches,
                               std::span<const uint32_t> coordinates) {
  CHECK(!coordinates.empty());
  std::vector<std::vector<MicroBatchIndex>> work(coordinates.size());
  std::vector<MicroBatchIndex> orphans;
  for (uint32_t j = 0; j < pipelines * micro_batches; ++j) {
    const auto home = std::find(coordinates.begin(), coordinates.end(), j % pipelines);
    if (home == coordinates.end()) {
      orphans.push_back(MicroBatchIndex(j));
    } else {
      work[static_cast<size_t>(home - coordinates.begin())].push_back(MicroBatchIndex(j));
    }
  }
  for (const MicroBatchIndex orphan : orphans) {
    const auto least = std::min_element(work.begin(), work.end(), [](const auto& a, const auto& b) {
      return a.size() < b.size();
    });
    least->push_back(orphan);
  }

  size_t rounds = 0;
  for (const auto& lane : work) rounds = std::max(rounds, lane.size());
  std::vector<Round> plan(rounds);
  for (size_t r = 0; r < rounds; ++r)
    for (const auto& lane : work)
      plan[r].lanes.push_back(r < lane.size() ? std::optional(lane[r]) : std::nullopt);
  return plan;
}

std::vector<Round> forward_rounds(const StagePlan& stage) {
  std::vector<Round> rounds;
  for (const StageRound& round : stage.rounds) {
    if (round.work != Work::kForward) continue;
    rounds.emplace_back();
    for (const auto& cell : round.lanes)
      rounds.back().lanes.push_back(cell && cell->work == Work::kForward
                                        ? std::optional(cell->micro_batch)
                                        : std::nullopt);
  }
  return rounds;
}

}  // namespace holdfast::train
