// Every finished step of the current history, for people and tests: loss, speed, held-out loss. Lives in
// the seed's catalog; a step that is computed again replaces its row. The newest rows of each job are kept.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "daemon/control/api.h"
#include "daemon/coordinator/types.h"
#include "storage/catalog/catalog.h"
#include "storage/catalog/keep_newest.h"
#include "train/worker/step_parts.h"

namespace holdfast::daemon {

class StepLog {
 public:
  explicit StepLog(storage::Catalog& catalog, uint64_t kept = 200'000)
      : catalog_(catalog), kept_(kept) {}

  // All lanes report the same step; the first of a (step, epoch) writes the row, the others are
  // counted. Where stages report by themselves, the first of the last stage that is heard of writes it.
  // Returns true when this report completed the step in that epoch for the first time.
  Result<bool> record(const JobId& job, const train::StepDone& step);
  // Rows [from, from + limit) in step order.
  Result<std::vector<api::StepRow>> rows(const JobId& job, Step from, uint64_t limit) const;
  // Rows above a new base are void until they are computed again.
  Status void_above(const JobId& job, Version base);

  // The newest row of the running job; nullopt before the first.
  const std::optional<api::StepRow>& newest() const { return newest_; }
  double tokens_per_second() const { return tokens_per_second_; }
  // Choices beyond capacity in all steps that this process has recorded, those that were computed again
  // too.
  uint64_t tokens_dropped() const { return tokens_dropped_; }

 private:
  Result<bool> count(const JobId& job, const train::StepDone& step);
  Status add_held_out_loss(const JobId& job, const train::StepDone& step);

  storage::Catalog& catalog_;
  const uint64_t kept_;  // rows of a job, give or take KeepNewest::kEvery
  std::map<JobId, storage::KeepNewest> trims_;
  std::optional<api::StepRow> newest_;
  std::set<uint32_t> newest_lanes_;  // that have reported it
  train::StepParts parts_;           // of steps of which not every stage has been heard
  double tokens_per_second_ = 0;  // smoothed over about ten steps
  uint64_t tokens_dropped_ = 0;
};

}  // namespace holdfast::daemon
