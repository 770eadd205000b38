#include "daemon/coordination/record_store.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/fault_point.h"
#include "base/json.h"

namespace holdfast::daemon {
namespace {

using storage::Catalog;
using storage::Durability;

constexpr const char* kEpochKey = "coordinator/epoch";
constexpr uint64_t kEventsKept = 100'000;
constexpr size_t kRowsAScan = 10'000;

std::string job_key(const JobId& job) { return "jobs/" + job.value; }
std::string ledger_prefix(const JobId& job) { return fmt::format("ledger/{}/", job.value); }
std::string ledger_key(const JobId& job, Step step) {
  return fmt::format("ledger/{}/{:020}/", job.value, step.value);
}
std::string event_key(uint64_t sequence) { return fmt::format("events/{:020}", sequence); }

template <class T>
Result<std::vector<T>> values(const std::vector<Catalog::Entry>& entries) {
  std::vector<T> all;
  for (const auto& [key, value] : entries) {
    ASSIGN_OR_RETURN(T one, from_json_text<T>(value, "catalog record " + key));
    all.push_back(std::move(one));
  }
  return all;
}

}  // namespace

Result<RecordStore> RecordStore::open(Catalog& catalog, int64_t wall_ms) {
  RecordStore store(catalog);
  ASSIGN_OR_RETURN(const auto epoch, catalog.get(kEpochKey));
  if (epoch) {
    ASSIGN_OR_RETURN(store.epoch_, from_json_text<Epoch>(*epoch, kEpochKey));
  } else {
    store.epoch_ = Epoch{static_cast<uint32_t>(wall_ms / 1000), 0};
    RETURN_IF_ERROR(
        catalog.compare_and_swap(kEpochKey, std::nullopt, to_json_text(store.epoch_)));
  }
  ASSIGN_OR_RETURN(const auto jobs, catalog.scan("jobs/", "", 100'000));
  ASSIGN_OR_RETURN(store.jobs_, values<JobRecord>(jobs));
  ASSIGN_OR_RETURN(const auto newest, catalog.scan("events/", "", 1, true));
  ASSIGN_OR_RETURN(const auto events, values<EventRecord>(newest));
  if (!events.empty()) store.next_sequence_ = events.front().sequence + 1;
  return store;
}

Status RecordStore::store(std::vector<Record>& records, int64_t wall_ms) {
  std::vector<Catalog::Write> writes;
  Durability durability = Durability::kBuffered;
  for (Record& record : records) {
    if (const auto* epoch = std::get_if<StoreEpoch>(&record)) {
      fault_point("coordinator.epoch");
      RETURN_IF_ERROR(catalog_->compare_and_swap(kEpochKey, to_json_text(epoch->expected),
                                                 to_json_text(epoch->next)));
      epoch_ = epoch->next;
    } else if (const auto* job = std::get_if<StoreJob>(&record)) {
      writes.push_back({job_key(job->job.config.name), to_json_text(job->job)});
      if (job->sync) durability = Durability::kSynced;
    } else if (const auto* row = std::get_if<SealRow>(&record)) {
      writes.push_back({ledger_key(row->job, row->row.step) + fmt::format("{:04}", row->row.lane),
                          to_json_text(row->row)});
    } else if (auto* event = std::get_if<EventRecord>(&record)) {
      event->sequence = next_sequence_++;
      event->wall_ms = wall_ms;
      writes.push_back({event_key(event->sequence), to_json_text(*event)});
      if (event->sequence > kEventsKept)
        writes.push_back({event_key(event->sequence - kEventsKept), std::nullopt});
    } else if (const auto* gone = std::get_if<VoidLedger>(&record)) {
      RETURN_IF_ERROR(remove_rows(gone->job, gone->from, writes));
      durability = Durability::kSynced;
    } else if (const auto* dropped = std::get_if<DropJob>(&record)) {
      RETURN_IF_ERROR(remove_rows(dropped->job, Step(0), writes));
      writes.push_back({job_key(dropped->job), std::nullopt});
      durability = Durability::kSynced;
    }
  }
  fault_point("coordinator.store");
  if (writes.empty()) return {};
  // One write, in the coordinator's order: the same job may stand in it more than once.
  return catalog_->write(writes, durability);
}

Status RecordStore::remove_rows(const JobId& job, Step from,
                                std::vector<Catalog::Write>& writes) {
  std::string next = ledger_key(job, from);
  while (true) {
    ASSIGN_OR_RETURN(const auto rows, catalog_->scan(ledger_prefix(job), next, kRowsAScan));
    for (const auto& [key, value] : rows) writes.push_back({key, std::nullopt});
    if (rows.size() < kRowsAScan) return {};
    next = rows.back().first + '\0';  // the key after it
  }
}

Result<std::vector<LedgerRow>> RecordStore::ledger(const JobId& job, Step from,
                                                   uint64_t limit) const {
  ASSIGN_OR_RETURN(const auto rows,
                   catalog_->scan(ledger_prefix(job), ledger_key(job, from), limit));
  return values<LedgerRow>(rows);
}

Result<std::vector<EventRecord>> RecordStore::events(uint64_t since, uint64_t limit) const {
  if (since == 0) {
    ASSIGN_OR_RETURN(auto newest, catalog_->scan("events/", "", limit, true));
    std::reverse(newest.begin(), newest.end());
    return values<EventRecord>(newest);
  }
  ASSIGN_OR_RETURN(const auto entries, catalog_->scan("events/", event_key(since), limit));
  return values<EventRecord>(entries);
}

}  // namespace holdfast::daemon
