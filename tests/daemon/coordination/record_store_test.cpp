#include "daemon/coordination/record_store.h"

#include <gtest/gtest.h>

namespace holdfast::daemon {
namespace {

constexpr int64_t kWallMs = 1'700'000'000'123;

class RecordStoreTest : public testing::Test {
 protected:
  RecordStore open() {
    auto store = RecordStore::open(*catalog_, kWallMs);
    EXPECT_TRUE(store) << store.error().to_string();
    return std::move(*store);
  }
  static JobRecord job(const std::string& name, JobState state) {
    JobRecord record;
    record.config.name = JobId(name);
    record.state = state;
    return record;
  }
  static LedgerRow row(uint64_t step, uint32_t lane, double loss) {
    LedgerRow r;
    r.step = Step(step);
    r.lane = lane;
    r.loss = loss;
    return r;
  }
  static Status store(RecordStore& to, std::vector<Record> records) {
    return to.store(records, kWallMs);
  }

  std::unique_ptr<storage::Catalog> catalog_ = storage::make_memory_catalog();
};

TEST_F(RecordStoreTest, ANewCatalogStartsAnIncarnationNumberedByTheClock) {
  EXPECT_EQ(open().epoch(), (Epoch{1'700'000'000, 0}));
  EXPECT_EQ(open().epoch(), (Epoch{1'700'000'000, 0})) << "kept when it is opened again";
}

TEST_F(RecordStoreTest, AnEpochIsTakenOnce) {
  RecordStore first = open();
  RecordStore second = open();
  const Epoch base = first.epoch();
  const Epoch next{base.incarnation, base.number + 1};
  ASSERT_TRUE(store(first, {StoreEpoch{base, next}}));
  const Status late = store(second, {StoreEpoch{base, next}, StoreJob{job("a", JobState::kDone), true}});
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, ErrorCode::kCatalogConflict);
  EXPECT_TRUE(open().jobs().empty()) << "nothing of the refused outcome is stored";
}

// A job's last safe version and its end come in one outcome; the end must win.
TEST_F(RecordStoreTest, TheLaterRecordOfAJobReplacesTheEarlierWhateverTheirSync) {
  RecordStore records = open();
  ASSERT_TRUE(store(records, {StoreJob{job("a", JobState::kStopping), false},
                              StoreJob{job("a", JobState::kDone), true}}));
  ASSERT_EQ(open().jobs().size(), 1u);
  EXPECT_EQ(open().jobs()[0].state, JobState::kDone);
}

TEST_F(RecordStoreTest, LedgerRowsAreReplacedAndVoided) {
  RecordStore records = open();
  const JobId a("a");
  ASSERT_TRUE(store(records, {SealRow{a, row(0, 0, 1)}, SealRow{a, row(0, 1, 2)},
                              SealRow{a, row(1, 0, 3)}, SealRow{a, row(0, 0, 4)}}));
  auto rows = records.ledger(a, Step(0), 10);
  ASSERT_TRUE(rows);
  ASSERT_EQ(rows->size(), 3u);
  EXPECT_EQ((*rows)[0].loss, 4.0);
  ASSERT_TRUE(store(records, {VoidLedger{a, Step(1)}}));
  rows = records.ledger(a, Step(0), 10);
  ASSERT_TRUE(rows);
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ((*rows)[1].lane, 1u);
}

TEST_F(RecordStoreTest, ARemovedJobLeavesNothing) {
  RecordStore records = open();
  const JobId a("a"), b("b");
  ASSERT_TRUE(store(records, {StoreJob{job("a", JobState::kDone), true},
                              StoreJob{job("b", JobState::kDone), true}, SealRow{a, row(0, 0, 1)},
                              SealRow{b, row(0, 0, 2)}}));
  ASSERT_TRUE(store(records, {DropJob{a}}));
  ASSERT_EQ(open().jobs().size(), 1u);
  EXPECT_EQ(open().jobs()[0].config.name, b);
  EXPECT_TRUE(records.ledger(a, Step(0), 10)->empty());
  EXPECT_EQ(records.ledger(b, Step(0), 10)->size(), 1u) << "of another job";
}

TEST_F(RecordStoreTest, ManyRowsGoAsFewDo) {
  RecordStore records = open();
  const JobId a("a");
  std::vector<Record> rows;
  for (uint64_t step = 0; step < 20'005; ++step) rows.push_back(SealRow{a, row(step, 0, 1)});
  ASSERT_TRUE(records.store(rows, kWallMs));
  ASSERT_TRUE(store(records, {VoidLedger{a, Step(2)}}));
  EXPECT_EQ(records.ledger(a, Step(0), 100'000)->size(), 2u);
  ASSERT_TRUE(records.store(rows, kWallMs));
  ASSERT_TRUE(store(records, {DropJob{a}}));
  EXPECT_TRUE(records.ledger(a, Step(0), 100'000)->empty());
}

TEST_F(RecordStoreTest, EventsAreNumberedOnAcrossRestarts) {
  const auto event = [](const std::string& kind) {
    EventRecord e;
    e.kind = kind;
    return e;
  };
  {
    RecordStore records = open();
    ASSERT_TRUE(store(records, {event("one"), event("two")}));
  }
  RecordStore records = open();
  std::vector<Record> more{event("three")};
  ASSERT_TRUE(records.store(more, kWallMs));
  EXPECT_EQ(std::get<EventRecord>(more[0]).sequence, 3u);
  EXPECT_EQ(std::get<EventRecord>(more[0]).wall_ms, kWallMs);
  const auto newest = records.events(0, 2);
  ASSERT_TRUE(newest);
  ASSERT_EQ(newest->size(), 2u);
  EXPECT_EQ((*newest)[0].kind, "two");
  const auto since = records.events(3, 10);
  ASSERT_TRUE(since);
  ASSERT_EQ(since->size(), 1u);
  EXPECT_EQ((*since)[0].kind, "three");
}

}  // namespace
}  // namespace holdfast::daemon
