#include "train/schedule/search.h"

#include <algorithm>
#include <limits>

namespace holdfast::train {
namespace {

constexpr uint32_t kNoBacklog = 1'000'000;  // never W before all else
// Times are sums of many costs: equal ones may differ in the last digits.
constexpr double kSame = 1e-9;
constexpr double kUnbounded = std::numeric_limits<double>::infinity();

bool less(double a, double b) { return a < b - kSame * (1 + b); }

// In flight per lane at stage s, of S; the last one is whatever memory allows.
constexpr uint32_t kFamilies = 6;
uint32_t family_limit(uint32_t family, uint32_t left, uint32_t cap) {
  switch (family) {  // no enum: they are only numbered
    case 0:
      return cap;
    case 1:
      return 2 * left + 2;
    case 2:
      return 2 * left;
    case 3:
      return left + 2;
    case 4:
      return left + 1;
    default:
      return left;  // as 1F1B
  }
}

}  // namespace

StyleSearch::StyleSearch(const Problem& problem, bool is_coupled, Barrier barrier,
                         const Bounds& bounds, uint32_t most_tries)
    : problem_(problem),
      coupled_(is_coupled),
      barrier_(barrier),
      bounds_(bounds),
      most_tries_(std::max(most_tries, 1u)) {
  for (const StageProblem& stage : problem.stages) {
    const StageCosts& c = stage.costs;
    const double work = static_cast<double>(problem.total()) /
                            static_cast<double>(stage.lanes.size()) *
                            (c.forward.total() + c.input.total() + c.weight.total()) +
                        c.update;
    slack_.push_back(std::max(0.0, bounds.period - work));
  }
}

bool StyleSearch::Score::better_than(const Score& other) const {
  if (less(first, other.first)) return true;
  if (less(other.first, first)) return false;
  if (less(second, other.second)) return true;
  if (less(other.second, second)) return false;
  return held < other.held;
}

bool StyleSearch::at_bound() const {
  if (tries_ == 0) return false;
  return !less(barrier_ == Barrier::kPerStage ? bounds_.period : bounds_.makespan,
               best_score_.first);
}

void StyleSearch::consider(const Style& style, bool sideways) {
  Draft draft = draft_step(problem_, style);
  ++tries_;
  Score score;
  if (barrier_ == Barrier::kPerStage) {
    const double enough = tries_ == 1 ? kUnbounded : best_score_.first * (1 + kSame) + kSame;
    score.first = staggered_period(draft.graph, enough);
    score.second = time_once(draft.graph, barrier_).makespan;
  } else {
    const StepTimes times = time_step(draft.graph, barrier_);
    score.first = times.makespan;
    score.second = times.period;
  }
  for (const StageStyle& stage : style.stages) score.held += stage.limit;
  const bool take = tries_ == 1 || score.better_than(best_score_) ||
                    (sideways && score.no_worse_than(best_score_));
  if (!take) return;
  best_ = std::move(draft);
  best_style_ = style;
  best_score_ = score;
}

Style StyleSearch::family(uint32_t limits, uint32_t backlog, bool wait, bool forward_first,
                          double spare) const {
  Style style;
  style.coupled = coupled_;
  const auto stages = static_cast<uint32_t>(problem_.stages.size());
  for (uint32_t s = 0; s < stages; ++s) {
    StageStyle one;
    one.forward_first = forward_first;
    one.weights_wait = wait;
    one.forwards_wait = coupled_ && wait;
    one.backlog = backlog;
    const uint32_t cap = problem_.stages[s].cap;
    one.limit = std::min(family_limit(limits, stages - s, cap), cap);
    one.spare_forward = one.spare_gradient = spare * slack_[s] / 2;
    style.stages.push_back(one);
  }
  return style;
}

// All of them where there is time; else the first dozen, which are the best of large problems, and
// of the others a part that has some of each kind.
void StyleSearch::try_families() {
  const std::vector<uint32_t> backlogs =
      coupled_ ? std::vector{kNoBacklog} : std::vector{kNoBacklog, 4u, 2u, 1u, 0u};
  std::vector<Style> all;
  for (uint32_t limits = 0; limits < kFamilies; ++limits)
    for (const uint32_t backlog : backlogs)
      for (const bool wait : {false, true})
        for (const bool forward_first : {false, true})
          for (const double spare : {0.0, 0.5, 1.0})
            all.push_back(family(limits, backlog, wait, forward_first, spare));
  constexpr size_t kFirst = 12;
  const size_t others = all.size() - kFirst;
  const size_t part = std::min<size_t>(others, most_tries_ / 4);
  for (size_t i = 0; i < kFirst + part && may_try() && !at_bound(); ++i)
    consider(all[i < kFirst ? i : kFirst + (i - kFirst) * others / part], false);
}

void StyleSearch::alter(StageStyle& style, uint32_t stage, uint32_t what, uint32_t how) const {
  const uint32_t cap = problem_.stages[stage].cap;
  switch (what) {  // no enum: drawn by lot
    case 0:
      style.forward_first = how % 2 == 0;
      break;
    case 1:
      style.weights_wait = how % 2 == 0;
      break;
    case 2:
      style.forwards_wait = how % 2 == 0;
      break;
    case 3:
      style.backlog = how % 3 == 0 ? kNoBacklog : how % 6;
      break;
    case 4:
      style.limit = std::clamp(how % 2 == 0 ? style.limit + 1 : style.limit - 1, 1u, cap);
      break;
    case 5:
      style.spare_forward = slack_[stage] * (how % 5) / 4;
      break;
    default:
      style.spare_gradient = slack_[stage] * (how % 5) / 4;
      break;
  }
}

void StyleSearch::alter_at_random() {
  const auto stages = static_cast<uint32_t>(problem_.stages.size());
  while (may_try() && !at_bound()) {
    Style style = best_style_;
    for (uint32_t changes = 1 + below(3); changes > 0; --changes) {
      // One stage, or the same change for some in a row.
      const uint32_t first = below(stages);
      const uint32_t last = below(3) == 0 ? first + below(stages - first) : first;
      const uint32_t what = below(7), how = below(30);
      for (uint32_t s = first; s <= last; ++s) alter(style.stages[s], s, what, how);
    }
    consider(style, true);
  }
}

// The smallest common limit with which the best style is as good.
void StyleSearch::save_memory() {
  uint32_t most = 1;
  for (const StageStyle& stage : best_style_.stages) most = std::max(most, stage.limit);
  uint32_t least = 1;
  while (least < most) {
    const uint32_t middle = least + (most - least) / 2;
    Style style = best_style_;
    for (StageStyle& stage : style.stages) stage.limit = std::min(stage.limit, middle);
    const Score before = best_score_;
    consider(style, false);
    if (best_score_.better_than(before))
      most = middle;
    else
      least = middle + 1;
  }
}

Draft StyleSearch::run() {
  try_families();
  alter_at_random();
  save_memory();
  return std::move(best_);
}

}  // namespace holdfast::train
