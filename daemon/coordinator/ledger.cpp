#include "daemon/coordinator/ledger.h"

#include <utility>

namespace holdfast::daemon {

Ledger::Ledger(std::vector<View> history, Version next, PlanOfView plan)
    : plan_(std::move(plan)), history_(std::move(history)), next_(next) {}

uint64_t Ledger::open(const View& view) {
  uint64_t voided = 0;
  for (auto it = steps_.lower_bound(Step(view.base.version.value)); it != steps_.end();) {
    voided += it->second.size();
    it = steps_.erase(it);
  }
  if (view.base.version < next_) next_ = view.base.version;
  history_.push_back(view);
  return voided;
}

// The newest view that did not start above the step: an older one was rolled back below it.
const View* Ledger::made_by(Step step) const {
  for (auto it = history_.rbegin(); it != history_.rend(); ++it)
    if (it->base.version.value <= step.value) return &*it;
  return nullptr;
}

// Kept, as it takes time to make and every step of a view has the same.
const std::vector<std::vector<uint32_t>>& Ledger::plan_of(const View& view) {
  if (planned_for_ != view.epoch) {
    planned_ = plan_(view);
    planned_for_ = view.epoch;
  }
  return planned_;
}

bool Ledger::add(const WorkerId& worker, const train::StepDone& done) {
  if (history_.empty() || done.epoch != history_.back().epoch || done.step.value < next_.value)
    return false;
  if (done.lane >= history_.back().members.size()) return false;
  return steps_[done.step]
      .try_emplace(done.lane,
                   LedgerRow{done.step, done.epoch, done.lane,
                             history_.back().members[done.lane].coordinate.stage, worker,
                             done.micro_batches,
                             done.tells_loss() ? std::optional(done.loss) : std::nullopt})
      .second;
}

bool Ledger::complete(Step step) const {
  const auto it = steps_.find(step);
  return it != steps_.end() && it->second.size() == history_.back().members.size();
}

std::vector<LedgerRow> Ledger::seal(Version safe, uint64_t& inferred) {
  std::vector<LedgerRow> sealed;
  for (; next_ < safe; next_ = next_.next()) {
    const Step step(next_.value);
    auto rows = std::move(steps_[step]);
    steps_.erase(step);
    if (const View* view = made_by(step)) {
      for (uint32_t lane = 0; lane < view->members.size(); ++lane) {
        if (rows.contains(lane)) continue;
        const Member& member = view->members[lane];
        rows[lane] = {step,          view->epoch,         lane, member.coordinate.stage,
                      member.worker, plan_of(*view)[lane], {}};
        ++inferred;
      }
    }
    for (auto& [lane, row] : rows) sealed.push_back(std::move(row));
  }
  return sealed;
}

}  // namespace holdfast::daemon
