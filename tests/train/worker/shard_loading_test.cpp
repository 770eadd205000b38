// Shards come from the arena to the trainer by several threads: verified first, all bad ones named, and
// nothing reads the arena once the answer is there.
#include "train/worker/shard_loading.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <set>
#include <thread>

#include "base/checksum.h"
#include "base/mutex.h"

namespace holdfast::train {
namespace {

constexpr Epoch kOne{1, 1};
constexpr uint64_t kJob = 77;
const StateVersion kBase{Version(5), kOne};

std::byte value_of(uint32_t shard) { return static_cast<std::byte>(shard + 1); }

// Keeps what was loaded, and who loaded it.
class Shelf final : public Trainer {
 public:
  explicit Shelf(size_t bytes) : bytes_(bytes) {}
  std::vector<HeldShards> held() const override { return {{kBase, {0}}}; }
  Status open_view(const TrainerView&) override { return {}; }
  Status load_shard(uint32_t shard, std::span<const std::byte> payload) override {
    if (!memory.empty())  // as a lane on CPUs does
      std::memcpy(memory.data() + shard * bytes_, payload.data(), payload.size());
    const MutexLock lock(mutex_);
    threads_.insert(std::this_thread::get_id());
    loaded_.insert(shard);
    if (!memory.empty()) return {};
    for (const std::byte one : payload) wrong_ += one == value_of(shard) ? 0 : 1;
    if (on_load) on_load(shard);
    return fail_at == shard ? fail(ErrorCode::kDeviceFailed, "the device fell over") : Status();
  }
  Status init_shard(uint32_t shard) override {
    const MutexLock lock(mutex_);
    loaded_.insert(shard);
    return {};
  }
  Status finish_loading() override {
    const MutexLock lock(mutex_);
    ++finished_;
    return at_the_end;
  }
  Status materialize(ViewCommunicator&) override { return {}; }
  Result<StepDone> run_step(ViewCommunicator&, Step) override {
    return fail(ErrorCode::kInternal, "no steps here");
  }
  StateVersion current() const override { return kBase; }
  std::span<const uint32_t> owned() const override { return {}; }
  size_t shard_bytes(uint32_t) const override { return bytes_; }
  std::unique_ptr<Protection> protect_version(Version, int64_t) override { return nullptr; }

  std::set<uint32_t> loaded() {
    const MutexLock lock(mutex_);
    return loaded_;
  }
  size_t threads() {
    const MutexLock lock(mutex_);
    return threads_.size();
  }
  size_t wrong() {
    const MutexLock lock(mutex_);
    return wrong_;
  }
  uint32_t finished() {
    const MutexLock lock(mutex_);
    return finished_;
  }
  std::function<void(uint32_t)> on_load;
  std::optional<uint32_t> fail_at;
  std::vector<std::byte> memory;  // where it is given: what is loaded is copied there, not looked at
  Status at_the_end;

 private:
  const size_t bytes_;
  Mutex mutex_;
  std::set<uint32_t> loaded_ GUARDED_BY(mutex_);
  std::set<std::thread::id> threads_ GUARDED_BY(mutex_);
  size_t wrong_ GUARDED_BY(mutex_) = 0;
  uint32_t finished_ GUARDED_BY(mutex_) = 0;
};

class ShardLoadings : public ::testing::Test {
 protected:
  static constexpr uint32_t kShards = 40;
  static constexpr size_t kBytes = 12 * 1000;

  ~ShardLoadings() override {
    arena_.reset();
    std::filesystem::remove(path_);
  }
  void make(size_t bytes = kBytes) {
    shelf_ = std::make_unique<Shelf>(bytes);
    path_ = (std::filesystem::exists("/dev/shm") ? "/dev/shm/" : "/tmp/") +
            ("holdfast-loading-" + std::to_string(::getpid()));
    std::filesystem::remove(path_);
    auto arena = storage::Arena::open({.path = path_,
                                       .size_bytes = kShards * (bytes + 8192) + (1 << 20),
                                       .cluster = "test",
                                       .node = NodeId("node-0")});
    ASSERT_TRUE(arena) << arena.error().to_string();
    arena_ = std::move(*arena);
    restore_.epoch = kOne;
    restore_.base = kBase;
    restore_.lanes = 1;
    restore_.coordinates = {0};
    restore_.owner_lane.assign(kShards, 0);
    for (uint32_t shard = 0; shard < kShards; ++shard) {
      const auto block = arena_->allocate(bytes, NodeId("node-0"), kOne);
      ASSERT_TRUE(block);
      const auto payload = arena_->payload(block->index)->first(bytes);
      std::memset(payload.data(), static_cast<int>(value_of(shard)), bytes);
      ASSERT_TRUE(arena_->publish(block->index, kOne,
                                  {kJob, ShardId::unflat(shard, 1), kBase, bytes,
                                   checksum64(payload)}));
      restore_.owned.push_back({shard, WorkerSource::kArena, block->index.value});
    }
  }
  void damage(uint32_t shard) {
    (*arena_->payload(storage::BlockIndex(restore_.owned[shard].block)))[17] ^= std::byte{1};
  }
  Loading load(uint32_t threads = 4) {
    return load_shards(restore_, {*arena_, *shelf_, abort_, pulse_, kJob, 1, threads});
  }

  std::filesystem::path path_;
  std::unique_ptr<storage::Arena> arena_;
  std::unique_ptr<Shelf> shelf_;
  Restore restore_;
  AbortWord abort_;
  ProgressRecord record_{};
  Pulse pulse_{record_};
};

TEST_F(ShardLoadings, EveryShardIsLoadedOnceAsItWasCaptured) {
  make();
  const uint64_t before = record_.counter.load();
  const Loading done = load();
  EXPECT_TRUE(done.status) << done.status.error().to_string();
  EXPECT_TRUE(done.bad.empty());
  EXPECT_EQ(done.bytes, kShards * kBytes);
  EXPECT_EQ(shelf_->loaded().size(), kShards);
  EXPECT_EQ(shelf_->wrong(), 0u);
  EXPECT_EQ(shelf_->finished(), 1u);
  EXPECT_LE(shelf_->threads(), 4u);
  EXPECT_GE(record_.counter.load() - before, kShards) << "a hang would be noticed";
}

TEST_F(ShardLoadings, BuffersAreLeftAloneAndInitialShardsComputed) {
  make();
  restore_.owned[0].source = WorkerSource::kBuffer;
  restore_.owned[7].source = WorkerSource::kInitial;
  damage(0);  // nobody looks
  damage(7);
  ASSERT_TRUE(load().status);
  EXPECT_EQ(shelf_->loaded().size(), kShards - 1);
  EXPECT_FALSE(shelf_->loaded().contains(0));
}

TEST_F(ShardLoadings, AllBadBlocksAreNamedInOneAnswerAndNoneIsLoaded) {
  make();
  for (const uint32_t shard : {31U, 4U, 17U}) damage(shard);
  restore_.owned[9].block = restore_.owned[8].block;  // holds another shard
  for (const uint32_t threads : {1U, 4U}) {
    const Loading done = load(threads);
    ASSERT_FALSE(done.status);
    EXPECT_EQ(done.status.error().code, ErrorCode::kBlockInvalid);
    std::vector<ShardBlock> bad;
    for (const uint32_t shard : {4U, 9U, 17U, 31U})
      bad.push_back({shard, restore_.owned[shard].block});
    EXPECT_EQ(done.bad, bad);
    for (const ShardBlock& b : bad) EXPECT_FALSE(shelf_->loaded().contains(b.shard)) << b.shard;
    EXPECT_EQ(shelf_->loaded().size(), kShards - bad.size()) << "the others need not come again";
    EXPECT_EQ(shelf_->wrong(), 0u);
  }
}

TEST_F(ShardLoadings, AnAbortEndsItSoonAndStillWaitsForTheCopies) {
  make();
  shelf_->on_load = [&](uint32_t) { abort_.set(); };
  const Loading done = load(4);
  ASSERT_FALSE(done.status);
  EXPECT_EQ(done.status.error().code, ErrorCode::kCommAborted);
  EXPECT_LE(shelf_->loaded().size(), 4u) << "what each thread had begun";
  EXPECT_EQ(shelf_->finished(), 1u);
}

TEST_F(ShardLoadings, AFailureOfTheDeviceIsNoBadBlock) {
  make();
  shelf_->fail_at = 12;
  const Loading done = load();
  ASSERT_FALSE(done.status);
  EXPECT_EQ(done.status.error().code, ErrorCode::kDeviceFailed);
  EXPECT_TRUE(done.bad.empty());
  EXPECT_EQ(shelf_->finished(), 1u);
  shelf_->fail_at.reset();
  shelf_->at_the_end = fail(ErrorCode::kDeviceFailed, "a copy failed");
  EXPECT_EQ(load().status.error().code, ErrorCode::kDeviceFailed);
  shelf_->on_load = [](uint32_t) { throw std::bad_alloc(); };
  EXPECT_EQ(load().status.error().code, ErrorCode::kDeviceFailed) << "whatever it led to before";
}

TEST_F(ShardLoadings, WhatTheTrainerThrowsIsAnError) {
  make();
  shelf_->on_load = [](uint32_t shard) {
    if (shard == 3) throw std::bad_alloc();
  };
  EXPECT_EQ(load().status.error().code, ErrorCode::kDeviceMemory);
  shelf_->on_load = [](uint32_t) { throw std::runtime_error("out of luck"); };
  const Loading done = load(1);
  EXPECT_EQ(done.status.error().code, ErrorCode::kInternal);
  EXPECT_EQ(done.status.error().message, "out of luck");
}

TEST_F(ShardLoadings, ARestoreThatCannotBeIsRefusedBeforeAnythingIsLoaded) {
  make();
  const auto refused = [&](auto change) {
    const Restore before = restore_;
    change(restore_.owned[5]);
    const Loading done = load();
    restore_ = before;
    return done.status ? ErrorCode::kInternal : done.status.error().code;
  };
  EXPECT_EQ(refused([](OwnedShard& o) { o.source = WorkerSource::kBuffer; }),
            ErrorCode::kRestoreImpossible);
  EXPECT_EQ(refused([](OwnedShard& o) { o.shard = kShards; }), ErrorCode::kBadMessage);
  EXPECT_EQ(refused([](OwnedShard& o) { o.shard = 6; }), ErrorCode::kBadMessage) << "twice";
  restore_.owner_lane[5] = 1;
  EXPECT_EQ(refused([](OwnedShard&) {}), ErrorCode::kBadMessage) << "of another lane";
  EXPECT_TRUE(shelf_->loaded().empty());
}

TEST(LoadingThreads, AreHalfOfTheProcessorsWithinLimits) {
  for (const auto& [processors, threads] :
       {std::pair{0U, 1U}, {1U, 1U}, {2U, 1U}, {4U, 2U}, {16U, 8U}, {256U, 8U}})
    EXPECT_EQ(loading_threads(processors), threads) << processors;
}

// With figures for those who read the output.
TEST_F(ShardLoadings, LargeShardsAreLoadedByAllThreads) {
  constexpr size_t kLarge = 4 << 20;
  make(kLarge);
  shelf_->memory.resize(kShards * kLarge);
  for (const uint32_t threads : {1U, 2U, 4U}) {
    const auto start = std::chrono::steady_clock::now();
    const Loading done = load(threads);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    ASSERT_TRUE(done.status);
    EXPECT_EQ(done.bytes, kShards * kLarge);
    std::printf("%u threads: %.0f MB/s\n", threads,
                static_cast<double>(done.bytes) / 1e6 / took.count());
  }
}

}  // namespace
}  // namespace holdfast::train
