// The coordinator's records in a catalog: what it must find again after a restart, and what people
// read. Embedded coordination: the catalog is the seed daemon's own.
//
// Keys: coordinator/epoch, jobs/<name>, ledger/<job>/<step>/<lane>, events/<sequence>; numbers with
// leading zeros, so that key order is their order. Values are JSON.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "daemon/coordinator/coordinator.h"
#include "storage/catalog/catalog.h"

namespace holdfast::daemon {

class RecordStore {
 public:
  // Reads everything. A catalog without an epoch starts a new incarnation, numbered by the wall clock
  // in seconds, so that epochs of a cluster that lost its catalog never name two views.
  static Result<RecordStore> open(storage::Catalog& catalog, int64_t wall_ms);

  Epoch epoch() const { return epoch_; }
  const std::vector<JobRecord>& jobs() const { return jobs_; }  // as they were at open

  // Stores one outcome's records, in the order that the coordinator asks for: the epoch first, by
  // compare-and-swap, then the rest in one write, synced if any of it must be. kCatalogConflict: another
  // coordinator has taken an epoch, and nothing of this outcome may be sent. Fills sequence and wall
  // time of events in `records`.
  Status store(std::vector<Record>& records, int64_t wall_ms);

  Result<std::vector<LedgerRow>> ledger(const JobId& job, Step from, uint64_t limit) const;
  // Events with sequence >= since, oldest first; since 0: the newest `limit`.
  Result<std::vector<EventRecord>> events(uint64_t since, uint64_t limit) const;

 private:
  // Adds to `writes` the removal of the job's rows from step `from` on.
  Status remove_rows(const JobId& job, Step from, std::vector<storage::Catalog::Write>& writes);
  explicit RecordStore(storage::Catalog& catalog) : catalog_(&catalog) {}

  storage::Catalog* catalog_;
  Epoch epoch_;
  std::vector<JobRecord> jobs_;
  uint64_t next_sequence_ = 1;
};

}  // namespace holdfast::daemon
