// One stage of a draft: what it has done, what has arrived, and what it could do next.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <limits>
#include <optional>
#include <vector>

#include "train/schedule/draft.h"

namespace holdfast::train {

class DraftStage {
 public:
  // `last`: its I need nothing from a later stage.
  DraftStage(const StageProblem& problem, uint32_t total, const Style& style, uint32_t stage,
             bool last);

  // They come in order: what comes later is numbered higher.
  void arrive_forward(uint32_t first, uint32_t count, double time) {
    std::fill_n(forward_at_.begin() + first, count, time);
  }
  void arrive_gradient(uint32_t first, uint32_t count, double time) {
    std::fill_n(gradient_at_.begin() + first, count, time);
  }

  bool done() const;
  bool free_at(double time) const { return free_ <= time; }
  // What to begin at `time`; nothing: wait for an arrival. With `force` a round need not be full.
  std::optional<Work> choose(double time, bool force) const;
  // Begins it: appends to `draft.numbers`, and returns the round and how long it takes.
  std::pair<DraftRound, double> begin(Work work, double time, Draft& draft);

 private:
  struct Window {
    uint32_t count = 0;
    uint32_t full = 0;
  };
  // Micro-batches `next`, ... that have arrived by `time`.
  Window arrived(uint32_t next, const std::vector<double>& at, double time, bool only_full) const;
  Window forward_window(double time, bool only_full) const;
  Window gradient_window(double time, bool only_full) const;
  bool through(uint32_t micro_batch) const;
  uint32_t through_all_lanes() const;
  bool ready(const Window& window, const WorkCost& cost, double spare, bool force) const;
  bool weights_pending() const;
  bool gradients_full_by(double time) const;
  bool forwards_full_by(double time) const;
  void take_window(DraftRound& round, const Window& window);
  void take_weights(DraftRound& round, Draft& draft);
  double take_experts(DraftRound& round, Draft& draft);

  const StageCosts& costs_;
  const WorkCost backward_;  // of an I or B round
  const bool coupled_;
  const StageStyle style_;
  const uint32_t total_;
  const uint32_t lanes_;
  const uint32_t limit_;
  const uint32_t stage_;
  const bool last_;
  double spare_forward_;
  double spare_gradient_;

  double free_ = 0;
  uint32_t forward_ = 0;  // micro-batches before this one are through
  uint32_t gradient_ = 0;
  std::vector<uint32_t> weight_;  // by lane: its next micro-batch to do dense W of
  uint32_t least_weight_ = 0;     // of these
  // I rounds whose expert W is to be done: number, end of its micro-batches.
  struct Experts {
    uint32_t number;
    uint32_t first;
    uint32_t end;
  };
  std::deque<Experts> experts_;
  uint32_t experts_done_ = 0;  // micro-batches before this one are through with expert W
  uint32_t gradient_rounds_ = 0;
  std::vector<double> forward_at_;
  std::vector<double> gradient_at_;
};

}  // namespace holdfast::train
