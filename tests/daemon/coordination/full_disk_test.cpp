// What a full disk on the seed node may stop: only what must be on disk before anybody acts on it.
#include "tests/storage/catalog/full_disk.h"

#include <gtest/gtest.h>

#include "daemon/coordination/record_store.h"

namespace holdfast::daemon {
namespace {

constexpr int64_t kWallMs = 1'700'000'000'123;

Record event(const std::string& kind) {
  EventRecord e;
  e.kind = kind;
  return e;
}
Record row(uint64_t step, uint32_t lane = 0) {
  LedgerRow r;
  r.step = Step(step);
  r.lane = lane;
  return SealRow{JobId("a"), r};
}
Record job(uint64_t safe, bool sync) {
  JobRecord record;
  record.config.name = JobId("a");
  record.safe.version = Version(safe);
  return StoreJob{record, sync};
}

class FullDiskTest : public testing::Test {
 protected:
  RecordStore open(const RecordLimits& limits = {}) {
    auto store = RecordStore::open(disk_, kWallMs, limits);
    EXPECT_TRUE(store) << store.error().to_string();
    return std::move(*store);
  }
  static std::vector<std::string> kinds(const std::vector<Record>& records) {
    std::vector<std::string> all;
    for (const Record& record : records)
      if (const auto* e = std::get_if<EventRecord>(&record)) all.push_back(e->kind);
    return all;
  }
  std::vector<std::string> stored_kinds(const RecordStore& store) {
    std::vector<std::string> all;
    const auto events = store.events(0, 100);
    for (const EventRecord& e : *events) all.push_back(e.kind);
    return all;
  }
  uint64_t stored_safe() { return open().jobs().at(0).safe.version.value; }
  // The first call starts the clock of the retries.
  static std::vector<Record> retry(RecordStore& store, int64_t& now_ms) {
    (void)store.retry(now_ms, kWallMs);
    now_ms += 60'000;
    return store.retry(now_ms, kWallMs);
  }

  storage::FullDisk disk_;
  int64_t now_ms_ = 1'000;
};

TEST_F(FullDiskTest, EventsRowsAndASafeVersionWaitAndAreToldOnce) {
  RecordStore store = open();
  std::vector<Record> before{job(1, true)};
  ASSERT_TRUE(store.store(before, kWallMs));
  disk_.full = true;
  std::vector<Record> first{job(2, false), row(1), event("protected")};
  ASSERT_TRUE(store.store(first, kWallMs));
  EXPECT_EQ(kinds(first), (std::vector<std::string>{"protected", "records_waiting"}));
  EXPECT_NE(std::get<EventRecord>(first.back()).text.find("HF-902"), std::string::npos);
  std::vector<Record> second{job(3, false), row(2), event("first_step")};
  ASSERT_TRUE(store.store(second, kWallMs));
  EXPECT_EQ(kinds(second), (std::vector<std::string>{"first_step"})) << "told once";
  EXPECT_EQ(store.waiting(), 6u) << "a job, two rows, three events";
  EXPECT_TRUE(retry(store, now_ms_).empty()) << "still full";

  disk_.full = false;
  EXPECT_EQ(kinds(retry(store, now_ms_)), (std::vector<std::string>{"records_stored"}));
  EXPECT_EQ(store.waiting(), 0u);
  EXPECT_EQ(stored_kinds(store), (std::vector<std::string>{"protected", "records_waiting",
                                                            "first_step", "records_stored"}));
  EXPECT_EQ(store.ledger(JobId("a"), Step(0), 10)->size(), 2u);
  EXPECT_EQ(stored_safe(), 3u);
  EXPECT_TRUE(retry(store, now_ms_).empty()) << "told once";
}

TEST_F(FullDiskTest, WhatMustBeOnDiskIsAnError) {
  RecordStore store = open();
  disk_.full = true;
  std::vector<Record> synced{job(1, true), event("view")};
  EXPECT_EQ(store.store(synced, kWallMs).error().code, ErrorCode::kDiskFull);
  std::vector<Record> epoch{StoreEpoch{store.epoch(), {store.epoch().incarnation, 1}}};
  EXPECT_EQ(store.store(epoch, kWallMs).error().code, ErrorCode::kDiskFull);
}

TEST_F(FullDiskTest, ASyncedRecordPassesWithoutTheBufferedOnesWhenOnlyItFits) {
  RecordStore store = open();
  disk_.most_writes = 1;
  std::vector<Record> both{job(1, true), event("view"), row(0)};
  ASSERT_TRUE(store.store(both, kWallMs));
  EXPECT_EQ(stored_safe(), 1u);
  EXPECT_EQ(kinds(both).back(), "records_waiting");
  EXPECT_TRUE(store.ledger(JobId("a"), Step(0), 10)->empty());
}

TEST_F(FullDiskTest, WhatWaitsNeverReplacesWhatWasSyncedLater) {
  RecordStore store = open();
  std::vector<Record> before{job(1, true)};
  ASSERT_TRUE(store.store(before, kWallMs));
  disk_.full = true;
  std::vector<Record> waits{job(2, false), row(1), row(2), row(3)};
  ASSERT_TRUE(store.store(waits, kWallMs));
  disk_.full = false;
  std::vector<Record> later{job(9, true), VoidLedger{JobId("a"), Step(2)}, row(2, 7)};
  ASSERT_TRUE(store.store(later, kWallMs));
  EXPECT_EQ(stored_safe(), 9u);
  (void)retry(store, now_ms_);
  EXPECT_EQ(stored_safe(), 9u);
  const auto rows = *store.ledger(JobId("a"), Step(0), 10);
  ASSERT_EQ(rows.size(), 2u) << "voided rows do not come back";
  EXPECT_EQ(rows[1].lane, 7u);
}

TEST_F(FullDiskTest, NothingOfARemovedJobWaits) {
  RecordStore store = open();
  disk_.full = true;
  std::vector<Record> waits{job(2, false), row(1)};
  ASSERT_TRUE(store.store(waits, kWallMs));
  disk_.full = false;
  std::vector<Record> drop{DropJob{JobId("a")}};
  ASSERT_TRUE(store.store(drop, kWallMs));
  (void)retry(store, now_ms_);
  EXPECT_TRUE(open().jobs().empty());
  EXPECT_TRUE(store.ledger(JobId("a"), Step(0), 10)->empty());
}

TEST_F(FullDiskTest, BeyondTheBoundRowsAreLostAndCountedButNoJob) {
  RecordLimits limits;
  limits.waiting = 4;
  RecordStore store = open(limits);
  disk_.full = true;
  for (uint64_t step = 0; step < 10; ++step) {
    std::vector<Record> rows{row(step)};
    ASSERT_TRUE(store.store(rows, kWallMs));
  }
  std::vector<Record> safe{job(5, false)};
  ASSERT_TRUE(store.store(safe, kWallMs));
  EXPECT_EQ(store.waiting(), 5u);
  EXPECT_EQ(store.lost(), 7u) << "three rows and what tells of it wait";
  disk_.full = false;
  const auto told = retry(store, now_ms_);
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(std::get<EventRecord>(told[0]).details.at(0).second, "7");
  EXPECT_EQ(stored_safe(), 5u);
}

TEST_F(FullDiskTest, RetriesBecomeRarer) {
  RecordStore store = open();
  disk_.full = true;
  std::vector<Record> rows{row(0)};
  ASSERT_TRUE(store.store(rows, kWallMs));
  const int before = disk_.tries;
  for (int64_t now_ms = 0; now_ms < 120'000; now_ms += 50) (void)store.retry(now_ms, kWallMs);
  EXPECT_GE(disk_.tries - before, 5);
  EXPECT_LE(disk_.tries - before, 10);
}

TEST_F(FullDiskTest, TheNewestEventsAndLedgerStepsAreKept) {
  RecordLimits limits;
  limits.events = 50;
  limits.ledger_steps = 60;
  RecordStore store = open(limits);
  for (uint64_t step = 0; step < 1'000; ++step) {
    std::vector<Record> records{row(step, 0), row(step, 1), event("view")};
    ASSERT_TRUE(store.store(records, kWallMs));
  }
  const auto rows = *store.ledger(JobId("a"), Step(0), 10'000);
  EXPECT_GE(rows.size(), 2u * 60);
  EXPECT_LE(rows.size(), 2u * (60 + storage::KeepNewest::kEvery));
  EXPECT_EQ(rows.back().step, Step(999));
  const auto events = store.events(0, 10'000);
  EXPECT_GE(events->size(), 50u);
  EXPECT_LE(events->size(), 50u + storage::KeepNewest::kEvery);
  EXPECT_EQ(events->back().sequence, 1'000u);
  EXPECT_LE(disk_.scans, 30) << "not at every write";

  // From the start again: what is written anew is bounded too.
  std::vector<Record> gone{VoidLedger{JobId("a"), Step(0)}};
  ASSERT_TRUE(store.store(gone, kWallMs));
  for (uint64_t step = 0; step < 500; ++step) {
    std::vector<Record> records{row(step)};
    ASSERT_TRUE(store.store(records, kWallMs));
  }
  EXPECT_LE(store.ledger(JobId("a"), Step(0), 10'000)->size(), 60 + storage::KeepNewest::kEvery);
}

}  // namespace
}  // namespace holdfast::daemon
