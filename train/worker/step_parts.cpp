#include "train/worker/step_parts.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace holdfast::train {
namespace {

void add_counts(const std::vector<uint64_t>& from, std::vector<uint64_t>& to) {
  to.resize(std::max(to.size(), from.size()));
  for (size_t i = 0; i < from.size(); ++i) to[i] += from[i];
}

}  // namespace

StepDone whole_step(const std::map<uint32_t, StepDone>& by_stage) {
  CHECK(!by_stage.empty());
  const StepDone& last = by_stage.rbegin()->second;
  StepDone whole = last;
  whole.of_stage.reset();
  whole.load_balance_loss = whole.z_loss = 0;
  whole.tokens_dropped = 0;
  whole.popularity.clear();
  whole.dropped.clear();
  double squares = 0;
  for (const auto& [stage, part] : by_stage) {
    whole.load_balance_loss += part.load_balance_loss;
    whole.z_loss += part.z_loss;
    squares += part.gradient_norm * part.gradient_norm;
    whole.tokens_dropped += part.tokens_dropped;
    whole.seconds = std::max(whole.seconds, part.seconds);
    whole.stall_seconds = std::max(whole.stall_seconds, part.stall_seconds);
    add_counts(part.popularity, whole.popularity);
    add_counts(part.dropped, whole.dropped);
  }
  whole.gradient_norm = std::sqrt(squares);
  return whole;
}

std::optional<StepParts::Whole> StepParts::add(const StepDone& report) {
  if (!report.of_stage) return Whole{report, {report.lane}};
  const auto at = open_.try_emplace({report.epoch, report.step}).first;
  Open& open = at->second;
  open.lanes.insert(report.lane);
  open.by_stage.try_emplace(report.of_stage->stage, report);
  if (open.by_stage.size() == report.of_stage->stages) {
    Whole whole{whole_step(open.by_stage), std::move(open.lanes)};
    open_.erase(at);
    return whole;
  }
  if (open_.size() > kMostOpen) open_.erase(open_.begin());
  return std::nullopt;
}

}  // namespace holdfast::train
