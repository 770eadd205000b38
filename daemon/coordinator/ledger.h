// Who ran which micro-batch of which step at which stage: provisional until the version it made is safe, then sealed;
// voided when a view rolls it back. Pure. The promise `exactly-once` speaks of sealed rows.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "daemon/coordinator/types.h"

namespace holdfast::daemon {

// What every lane of a view runs in every step: the plan.
using PlanOfView = std::function<std::vector<std::vector<uint32_t>>(const View&)>;

class Ledger {
 public:
  // `history`: every view of the job so far; `next`: the first step that is not sealed.
  Ledger(std::vector<View> history, Version next, PlanOfView plan);

  // A view begins: rows of steps from its base on are void; returns how many were. Sealed steps are
  // rolled back too when the base lies below them (sealed_up_to tells).
  uint64_t open(const View& view);
  // False: of another view, or told before.
  bool add(const WorkerId& worker, const train::StepDone& done);
  // All lanes of the open view have told `step`.
  bool complete(Step step) const;
  Version sealed_up_to() const { return next_; }

  // Rows of every step below `safe`, in order; they leave the ledger. A step whose version is safe
  // happened on every lane, also where the report was lost with its node or with the coordinator's
  // process: such rows come from the plan, without a loss, and are counted.
  std::vector<LedgerRow> seal(Version safe, uint64_t& inferred);

 private:
  const View* made_by(Step step) const;
  const std::vector<std::vector<uint32_t>>& plan_of(const View& view);

  const PlanOfView plan_;
  std::optional<Epoch> planned_for_;
  std::vector<std::vector<uint32_t>> planned_;  // of the view of that epoch
  std::vector<View> history_;  // ascending epochs
  Version next_;
  std::map<Step, std::map<uint32_t, LedgerRow>> steps_;  // of the open view, or below its base
};

}  // namespace holdfast::daemon
