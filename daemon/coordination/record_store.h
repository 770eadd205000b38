// The coordinator's records in a catalog: what it must find again after a restart, and what people
// read. Embedded coordination: the catalog is the seed daemon's own.
//
// Keys: coordinator/epoch, jobs/<name>, ledger/<job>/<step>/<lane>, events/<sequence>; numbers with
// leading zeros, so that key order is their order. Values are JSON.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "daemon/coordination/waiting_records.h"
#include "daemon/coordinator/coordinator.h"
#include "storage/catalog/catalog.h"
#include "storage/catalog/keep_newest.h"

namespace holdfast::daemon {

// The newest are kept, give or take KeepNewest::kEvery.
struct RecordLimits {
  uint64_t events = 100'000;
  uint64_t ledger_steps = 200'000;  // of each job
  size_t waiting = 50'000;          // records that wait for a full disk
};

class RecordStore {
 public:
  // Reads everything. A catalog without an epoch starts a new incarnation, numbered by the wall clock
  // in seconds, so that epochs of a cluster that lost its catalog never name two views.
  static Result<RecordStore> open(storage::Catalog& catalog, int64_t wall_ms,
                                  const RecordLimits& limits = {});

  Epoch epoch() const { return epoch_; }
  const std::vector<JobRecord>& jobs() const { return jobs_; }  // as they were at open

  // Stores one outcome's records, in the order that the coordinator asks for: the epoch first, by
  // compare-and-swap, then the rest in one write, synced if any of it must be. An error says that what
  // must be on disk is not, and nothing of this outcome may be sent; kCatalogConflict: another
  // coordinator has taken an epoch. Events, sealed rows and jobs of which only the safe version moved
  // are no reason to fail: they wait for `retry`, and an event that says so is added to `records`.
  // Fills sequence and wall time of events in `records`.
  Status store(std::vector<Record>& records, int64_t wall_ms);
  // Tries to store what waits, once a second at first and every 30 s at last; the events of success.
  std::vector<Record> retry(int64_t now_ms, int64_t wall_ms);
  size_t waiting() const { return waiting_.size(); }
  uint64_t lost() const { return waiting_.dropped(); }  // there was no room for them to wait

  Result<std::vector<LedgerRow>> ledger(const JobId& job, Step from, uint64_t limit) const;
  // Events with sequence >= since, oldest first; since 0: the newest `limit`.
  Result<std::vector<EventRecord>> events(uint64_t since, uint64_t limit) const;

 private:
  // Adds to `writes` the removal of the job's rows from step `from` on.
  Status remove_rows(const JobId& job, Step from, std::vector<storage::Catalog::Write>& writes);
  RecordStore(storage::Catalog& catalog, const RecordLimits& limits)
      : catalog_(&catalog), limits_(limits), waiting_(limits.waiting), events_kept_(limits.events) {}

  struct Batch {
    std::vector<storage::Catalog::Write> synced;
    std::map<std::string, std::string> buffered;  // written after `synced`
  };
  Result<Batch> sorted(std::vector<Record>& records, int64_t wall_ms);
  Status write(Batch batch, std::vector<Record>& records, int64_t wall_ms);
  void forget_buffered(Batch& batch, const std::string& prefix, const std::string& from);
  // Buffered records of this outcome and older ones wait from now on.
  void wait(const Batch& batch);
  void number(EventRecord& event, int64_t wall_ms);
  EventRecord told(const char* kind, std::string text) const;
  void trim(const std::vector<Record>& records);

  storage::Catalog* catalog_;
  RecordLimits limits_;
  Epoch epoch_;
  std::vector<JobRecord> jobs_;
  uint64_t next_sequence_ = 1;
  WaitingRecords waiting_;
  int64_t retry_ms_ = 0;  // between tries
  std::optional<int64_t> retry_at_ms_;
  storage::KeepNewest events_kept_;
  std::map<JobId, storage::KeepNewest> ledgers_kept_;
};

}  // namespace holdfast::daemon
