#include "train/schedule/draft_stage.h"

#include <algorithm>

#include "base/check.h"

namespace holdfast::train {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr double kTiny = 1e-9;  // of sums that should be equal

}  // namespace

DraftStage::DraftStage(const StageProblem& problem, uint32_t total, const Style& style,
                       uint32_t stage, bool last)
    : costs_(problem.costs),
      backward_(round_cost(problem.costs, style.coupled ? Work::kBackward : Work::kInputGradient)),
      coupled_(style.coupled),
      style_(style.stages[stage]),
      total_(total),
      lanes_(static_cast<uint32_t>(problem.lanes.size())),
      limit_(std::min(style_.limit, problem.cap)),
      stage_(stage),
      last_(last),
      spare_forward_(style_.spare_forward),
      spare_gradient_(style_.spare_gradient),
      forward_at_(total, stage == 0 ? 0.0 : kNever),
      gradient_at_(total, kNever) {
  for (uint32_t lane = 0; lane < lanes_; ++lane) weight_.push_back(lane);
}

bool DraftStage::done() const {
  return gradient_ == total_ && (coupled_ || (!weights_pending() && experts_.empty()));
}

// They come in order. A round that is not full need not be counted where only a full one is of use.
DraftStage::Window DraftStage::arrived(uint32_t next, const std::vector<double>& at, double time,
                                       bool only_full) const {
  Window window;
  window.full = std::min(lanes_, total_ - next);
  const auto begin = at.begin() + next, end = begin + window.full;
  if (window.full == 0 || *(end - 1) <= time)
    window.count = window.full;
  else if (!only_full)
    window.count = static_cast<uint32_t>(std::upper_bound(begin, end, time) - begin);
  return window;
}

bool DraftStage::through(uint32_t micro_batch) const {
  if (coupled_) return micro_batch < gradient_;
  return weight_[micro_batch % lanes_] > micro_batch &&
         (costs_.weight.expert == 0 || experts_done_ > micro_batch);
}

// All micro-batches before it are through.
uint32_t DraftStage::through_all_lanes() const {
  if (coupled_) return gradient_;
  return costs_.weight.expert == 0 ? least_weight_ : std::min(least_weight_, experts_done_);
}

// The lane of a micro-batch holds those `lanes_` apart: the one that would be too many must be
// through.
DraftStage::Window DraftStage::forward_window(double time, bool only_full) const {
  Window window = arrived(forward_, forward_at_, time, only_full);
  const uint64_t reach = uint64_t{limit_} * lanes_;
  if (forward_ + window.count <= reach) return window;
  // Of those before, micro-batches through_all_lanes() and later may not be through: lanes do W at
  // different times.
  const uint64_t sure = reach + through_all_lanes();
  for (auto i = static_cast<uint32_t>(sure > forward_ ? sure - forward_ : 0); i < window.count; ++i)
    if (!through(forward_ + i - static_cast<uint32_t>(reach))) window.count = i;
  return window;
}

DraftStage::Window DraftStage::gradient_window(double time, bool only_full) const {
  Window window = arrived(gradient_, gradient_at_, time, only_full);
  window.count = std::min(window.count, forward_ - gradient_);
  return window;
}

bool DraftStage::ready(const Window& window, const WorkCost& cost, double spare, bool force) const {
  if (window.count == 0) return false;
  if (force || window.count == window.full) return true;
  return spare >= cost.dense * (window.full - window.count) / lanes_;
}

bool DraftStage::weights_pending() const {
  return !coupled_ && least_weight_ < gradient_;
}

// Known now to be full before `time`.
bool DraftStage::gradients_full_by(double time) const {
  const Window window = gradient_window(time - kTiny, true);
  return window.count > 0 && window.count == window.full;
}
bool DraftStage::forwards_full_by(double time) const {
  const Window window = forward_window(time - kTiny, true);
  return window.count > 0 && window.count == window.full;
}

std::optional<Work> DraftStage::choose(double time, bool force) const {
  const Work backward = coupled_ ? Work::kBackward : Work::kInputGradient;
  const bool weights = weights_pending() || !experts_.empty();
  if (weights && least_weight_ + uint64_t{style_.backlog} * lanes_ < gradient_)
    return Work::kWeightGradient;
  const auto only_full = [&](const WorkCost& cost, double spare) {
    return !force && spare < cost.dense / lanes_;
  };
  const bool gradient = ready(gradient_window(time, only_full(backward_, spare_gradient_)),
                              backward_, spare_gradient_, force);
  bool forward = ready(forward_window(time, only_full(costs_.forward, spare_forward_)),
                       costs_.forward, spare_forward_, force);
  if (!force && forward && !gradient && style_.forwards_wait &&
      gradients_full_by(time + costs_.forward.total()))
    forward = false;
  if (gradient && !(style_.forward_first && forward)) return backward;
  if (forward) return Work::kForward;
  if (!weights) return std::nullopt;
  const double end = time + costs_.weight.total();
  if (!force && style_.weights_wait && (gradients_full_by(end) || forwards_full_by(end)))
    return std::nullopt;
  return Work::kWeightGradient;
}

void DraftStage::take_window(DraftRound& round, const Window& window) {
  const bool forward = round.work == Work::kForward;
  uint32_t& next = forward ? forward_ : gradient_;
  round.first = next;
  round.count = window.count;
  next += window.count;
  (forward ? spare_forward_ : spare_gradient_) -=
      (forward ? costs_.forward : backward_).dense * (window.full - window.count) / lanes_;
}

// One dense W for every lane that has one pending and nothing else to do in this round.
void DraftStage::take_weights(DraftRound& round, Draft& draft) {
  const bool forward = round.work == Work::kForward;
  const uint32_t pending = forward || round.work == Work::kWeightGradient
                               ? gradient_
                               : gradient_ - round.count;  // not those whose I is this round
  const uint32_t first = round.first % lanes_;  // the lane of round.first
  round.weights_begin = static_cast<uint32_t>(draft.numbers.size());
  for (uint32_t lane = 0; lane < lanes_ && least_weight_ < pending; ++lane) {
    if (weight_[lane] >= pending) continue;
    const uint32_t place = lane >= first ? lane - first : lane + lanes_ - first;
    if (place < round.count) continue;
    draft.numbers.push_back(weight_[lane]);
    weight_[lane] += lanes_;
  }
  least_weight_ = *std::min_element(weight_.begin(), weight_.end());
  round.weights_end = static_cast<uint32_t>(draft.numbers.size());
}

// Expert W of I rounds of which all dense W are done, or in this round. Returns what it costs.
double DraftStage::take_experts(DraftRound& round, Draft& draft) {
  double cost = 0;
  round.experts_begin = static_cast<uint32_t>(draft.numbers.size());
  while (!experts_.empty()) {
    const Experts& next = experts_.front();
    for (uint32_t j = std::max(next.first, least_weight_); j < next.end; ++j)
      if (weight_[j % lanes_] <= j) {
        round.experts_end = static_cast<uint32_t>(draft.numbers.size());
        return cost;
      }
    draft.numbers.push_back(next.number);
    cost += costs_.weight.expert * (next.end - next.first) / lanes_;
    experts_done_ = next.end;
    experts_.pop_front();
  }
  round.experts_end = static_cast<uint32_t>(draft.numbers.size());
  return cost;
}

std::pair<DraftRound, double> DraftStage::begin(Work work, double time, Draft& draft) {
  DraftRound round;
  round.stage = stage_;
  round.work = work;
  double duration = 0;
  if (work == Work::kWeightGradient) {
    take_weights(round, draft);
    if (round.weights_end > round.weights_begin) duration = costs_.weight.dense;
    duration += take_experts(round, draft);
  } else {
    const bool forward = work == Work::kForward;
    take_window(round, forward ? forward_window(time, false) : gradient_window(time, false));
    CHECK(round.count > 0);
    const WorkCost& cost = forward ? costs_.forward : backward_;
    duration = cost.dense + cost.expert * round.count / lanes_;
    // W of other lanes, where it costs the round nothing.
    if (!coupled_ && costs_.weight.dense <= cost.dense && round.count < lanes_) {
      take_weights(round, draft);
      if (costs_.weight.expert == 0) take_experts(round, draft);
    }
    if (work == Work::kInputGradient)
      experts_.push_back({gradient_rounds_, round.first, round.first + round.count});
    if (!forward) ++gradient_rounds_;
  }
  free_ = time + duration;
  // The last stage begins backward with what it has just computed.
  if (last_ && work == Work::kForward)
    std::fill_n(gradient_at_.begin() + round.first, round.count, free_);
  return {round, duration};
}

}  // namespace holdfast::train
