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
constexpr const char* kEventPrefix = "events/";
constexpr size_t kRowsAScan = 10'000;
constexpr int64_t kFirstRetryMs = 1'000;
constexpr int64_t kLastRetryMs = 30'000;  // doubled up to here

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

// Of a job whose safe version moved there is one, replaced again and again.
bool must_wait(const std::string& key) { return key.starts_with("jobs/"); }

}  // namespace

Result<RecordStore> RecordStore::open(Catalog& catalog, int64_t wall_ms,
                                      const RecordLimits& limits) {
  RecordStore store(catalog, limits);
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
  ASSIGN_OR_RETURN(const auto newest, catalog.scan(kEventPrefix, "", 1, true));
  ASSIGN_OR_RETURN(const auto events, values<EventRecord>(newest));
  if (!events.empty()) store.next_sequence_ = events.front().sequence + 1;
  return store;
}

Status RecordStore::store(std::vector<Record>& records, int64_t wall_ms) {
  ASSIGN_OR_RETURN(Batch batch, sorted(records, wall_ms));
  fault_point("coordinator.store");
  if (batch.synced.empty() && batch.buffered.empty()) return {};
  RETURN_IF_ERROR(write(std::move(batch), records, wall_ms));
  if (waiting_.empty()) trim(records);
  return {};
}

// Takes the epoch and sorts the rest by what a full disk means for it. A later synced record takes
// with it what an earlier buffered one said of the same key, also where that waits.
Result<RecordStore::Batch> RecordStore::sorted(std::vector<Record>& records, int64_t wall_ms) {
  Batch batch;
  for (Record& record : records) {
    if (const auto* epoch = std::get_if<StoreEpoch>(&record)) {
      fault_point("coordinator.epoch");
      RETURN_IF_ERROR(catalog_->compare_and_swap(kEpochKey, to_json_text(epoch->expected),
                                                 to_json_text(epoch->next)));
      epoch_ = epoch->next;
    } else if (const auto* job = std::get_if<StoreJob>(&record)) {
      const std::string key = job_key(job->job.config.name);
      if (!job->sync) {
        batch.buffered[key] = to_json_text(job->job);
        continue;
      }
      batch.buffered.erase(key);
      waiting_.forget(key);
      batch.synced.push_back({key, to_json_text(job->job)});
    } else if (const auto* row = std::get_if<SealRow>(&record)) {
      batch.buffered[ledger_key(row->job, row->row.step) + fmt::format("{:04}", row->row.lane)] =
          to_json_text(row->row);
    } else if (auto* event = std::get_if<EventRecord>(&record)) {
      number(*event, wall_ms);
      batch.buffered[event_key(event->sequence)] = to_json_text(*event);
    } else if (const auto* gone = std::get_if<VoidLedger>(&record)) {
      forget_buffered(batch, ledger_prefix(gone->job), ledger_key(gone->job, gone->from));
      ledgers_kept_.erase(gone->job);
      RETURN_IF_ERROR(remove_rows(gone->job, gone->from, batch.synced));
    } else if (const auto* dropped = std::get_if<DropJob>(&record)) {
      const std::string key = job_key(dropped->job);
      batch.buffered.erase(key);
      waiting_.forget(key);
      forget_buffered(batch, ledger_prefix(dropped->job), ledger_prefix(dropped->job));
      ledgers_kept_.erase(dropped->job);
      RETURN_IF_ERROR(remove_rows(dropped->job, Step(0), batch.synced));
      batch.synced.push_back({key, std::nullopt});
    }
  }
  return batch;
}

void RecordStore::forget_buffered(Batch& batch, const std::string& prefix,
                                  const std::string& from) {
  waiting_.forget_from(prefix, from);
  auto it = batch.buffered.lower_bound(from);
  while (it != batch.buffered.end() && it->first.starts_with(prefix)) it = batch.buffered.erase(it);
}

Status RecordStore::write(Batch batch, std::vector<Record>& records, int64_t wall_ms) {
  const Durability durability =
      batch.synced.empty() ? Durability::kBuffered : Durability::kSynced;
  if (!waiting_.empty()) {  // behind what waits, or an older value would come last
    wait(batch);
    return batch.synced.empty() ? Status() : catalog_->write(batch.synced, durability);
  }
  // One write while the disk has room: a process that is killed leaves all of an outcome or nothing.
  std::vector<Catalog::Write> all = batch.synced;
  for (const auto& [key, value] : batch.buffered) all.push_back({key, value});
  const Status stored = catalog_->write(all, durability);
  if (stored || batch.buffered.empty()) return stored;
  if (!batch.synced.empty()) RETURN_IF_ERROR(catalog_->write(batch.synced, durability));
  wait(batch);
  retry_ms_ = kFirstRetryMs;
  retry_at_ms_.reset();
  EventRecord event = told("records_waiting",
                           fmt::format("events and ledger rows cannot be stored and wait in memory, "
                                       "training goes on: {}",
                                       stored.error().to_string()));
  number(event, wall_ms);
  waiting_.add(event_key(event.sequence), to_json_text(event), false);
  records.emplace_back(std::move(event));
  return {};
}

void RecordStore::wait(const Batch& batch) {
  for (const auto& [key, value] : batch.buffered) waiting_.add(key, value, must_wait(key));
}

std::vector<Record> RecordStore::retry(int64_t now_ms, int64_t wall_ms) {
  std::vector<Record> events;
  if (waiting_.empty()) return events;
  if (!retry_at_ms_) retry_at_ms_ = now_ms + retry_ms_;
  if (now_ms < *retry_at_ms_) return events;
  const size_t waited = waiting_.size();
  if (!waiting_.store_in(*catalog_)) {
    retry_ms_ = std::min(retry_ms_ * 2, kLastRetryMs);
    retry_at_ms_ = now_ms + retry_ms_;
    return events;
  }
  EventRecord again = told(
      "records_stored",
      fmt::format("the last {} records that waited are stored; {} found no room to wait since this "
                  "daemon began and are lost",
                  waited, waiting_.dropped()));
  again.details = {{"lost", std::to_string(waiting_.dropped())}};
  events.emplace_back(std::move(again));
  (void)store(events, wall_ms);  // events do not fail: they wait again
  return events;
}

void RecordStore::number(EventRecord& event, int64_t wall_ms) {
  event.sequence = next_sequence_++;
  event.wall_ms = wall_ms;
}

EventRecord RecordStore::told(const char* kind, std::string text) const {
  EventRecord event;
  event.kind = kind;
  event.epoch = epoch_;
  event.text = std::move(text);
  return event;
}

// What is not removed now is removed later: no reason to fail.
void RecordStore::trim(const std::vector<Record>& records) {
  (void)events_kept_.wrote(*catalog_, kEventPrefix, next_sequence_ - 1, event_key);
  for (const Record& record : records) {
    const auto* row = std::get_if<SealRow>(&record);
    if (row == nullptr) continue;
    const JobId& job = row->job;
    auto& kept = ledgers_kept_.try_emplace(job, limits_.ledger_steps).first->second;
    (void)kept.wrote(*catalog_, ledger_prefix(job), row->row.step.value,
                     [&job](uint64_t step) { return ledger_key(job, Step(step)); });
  }
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
    ASSIGN_OR_RETURN(auto newest, catalog_->scan(kEventPrefix, "", limit, true));
    std::reverse(newest.begin(), newest.end());
    return values<EventRecord>(newest);
  }
  ASSIGN_OR_RETURN(const auto entries, catalog_->scan(kEventPrefix, event_key(since), limit));
  return values<EventRecord>(entries);
}

}  // namespace holdfast::daemon
