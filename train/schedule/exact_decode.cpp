#include <algorithm>
#include <array>

#include "train/schedule/exact_model.h"

namespace holdfast::train {
namespace {

// One stage of a plan out of what its lanes begin, in the order of time.
class StageReader {
 public:
  StageReader(StagePlan& stage, uint32_t total, bool is_coupled)
      : stage_(stage), coupled_(is_coupled), weight_done_(total, false) {
    for (auto& of_work : next_)
      for (uint32_t lane = 0; lane < stage.lanes.size(); ++lane) of_work.push_back(lane);
    clear();
  }

  void begin(uint32_t lane, Work work) {
    uint32_t& next = next_[static_cast<size_t>(work)][lane];
    const uint32_t j = next;
    next += static_cast<uint32_t>(stage_.lanes.size());
    round_.lanes[lane] = Cell{work, MicroBatchIndex(j)};
    if (work != Work::kWeightGradient) round_.work = work;
    if (work == Work::kInputGradient) gradients_.push_back(j);
    if (work == Work::kWeightGradient) weight_done_[j] = true;
    any_ = true;
  }

  // All that begins at one time has been told.
  void end_round() {
    if (!any_) return;
    // Expert W costs nothing here: with the last dense W of its I round.
    const auto done = [&](uint32_t j) { return weight_done_[j]; };
    while (!coupled_ && experts_ < gradient_rounds_.size() &&
           std::all_of(gradient_rounds_[experts_].begin(), gradient_rounds_[experts_].end(), done))
      round_.experts.push_back(static_cast<uint32_t>(experts_++));
    if (!gradients_.empty()) gradient_rounds_.push_back(std::move(gradients_));
    stage_.rounds.push_back(std::move(round_));
    clear();
  }

 private:
  void clear() {
    round_ = {};
    round_.work = Work::kWeightGradient;
    round_.lanes.resize(stage_.lanes.size());
    gradients_.clear();
    any_ = false;
  }

  StagePlan& stage_;
  const bool coupled_;
  std::array<std::vector<uint32_t>, 4> next_;           // by work and lane: its next micro-batch
  std::vector<std::vector<uint32_t>> gradient_rounds_;  // their micro-batches
  std::vector<bool> weight_done_;
  size_t experts_ = 0;
  StageRound round_;
  std::vector<uint32_t> gradients_;
  bool any_ = false;
};

}  // namespace

Plan ExactModel::decode(const std::vector<double>& solution) const {
  Plan plan{problem_->pipelines, problem_->micro_batches, {}};
  for (uint32_t s = 0; s < problem_->stages.size(); ++s) {
    StagePlan stage{problem_->stages[s].lanes, {}};
    StageReader reader(stage, problem_->total(), coupled_);
    for (int t = 0; t <= horizon_; ++t) {
      for (const Kind kind : {kF, kI, kW}) {
        const Work backward = coupled_ ? Work::kBackward : Work::kInputGradient;
        const Work what = kind == kF   ? Work::kForward
                          : kind == kI ? backward
                                       : Work::kWeightGradient;
        for (uint32_t lane = 0; has(kind) && t <= last_start(s, kind) && lane < lanes(s); ++lane)
          if (solution[static_cast<size_t>(work(s, kind, lane, t))] > 0.5) reader.begin(lane, what);
      }
      reader.end_round();
    }
    plan.stages.push_back(std::move(stage));
  }
  return plan;
}

}  // namespace holdfast::train
