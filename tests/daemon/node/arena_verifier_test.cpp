#include "daemon/node/arena_verifier.h"

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <cstdio>

#include "daemon/node/asio_loop.h"
#include "tests/daemon/node/node_test_help.h"

namespace holdfast::daemon {
namespace {

constexpr Epoch kOne{1, 1};
StateVersion at(uint64_t version) { return {Version(version), kOne}; }

// What was given aside is done when the test says so.
struct SlowLoop final : LoopPort {
  void after_ms(int64_t, std::function<void()>) override {}
  void aside(std::function<void()> work, std::function<void()> done) override {
    given.emplace_back(std::move(work), std::move(done));
  }
  size_t helpers() const override { return 3; }
  void run() {
    while (!given.empty()) {
      const auto [work, done] = std::move(given.front());
      given.erase(given.begin());
      work();
      done();
    }
  }
  std::vector<std::pair<std::function<void()>, std::function<void()>>> given;
};

class ArenaVerifierTest : public NodeTest {
 protected:
  void damage(uint32_t block) { (*arena_->payload(storage::BlockIndex(block)))[0] ^= std::byte{1}; }
  ArenaVerifier::Contents verify() {
    ArenaVerifier::Contents contents;
    verifier_.verify(job_, [&](const ArenaVerifier::Contents& c) { contents = c; });
    slow_.run();
    return contents;
  }
  SlowLoop slow_;
  ArenaVerifier verifier_{*arena_, slow_};
};

TEST_F(ArenaVerifierTest, WhatIsRightAndWhatIsDamagedIsTold) {
  put(0, at(3));
  put(1, at(3));
  put(1, at(3));  // twice the same
  put(2, at(4));
  const uint32_t bad = put(3, at(4));
  damage(bad);
  const auto contents = verify();
  EXPECT_EQ(contents.held,
            (std::map<StateVersion, std::set<uint32_t>>{{at(3), {0, 1}}, {at(4), {2}}}));
  ASSERT_EQ(contents.damaged.size(), 1u);
  EXPECT_EQ(contents.damaged[0].first.index.value, bad);
  EXPECT_EQ(contents.damaged[0].second.code, ErrorCode::kBlockInvalid);
}

TEST_F(ArenaVerifierTest, ABlockIsSummedOnceUnlessItIsFoundBadInUse) {
  const uint32_t block = put(0, at(3));
  verify();
  slow_.given.clear();
  put(1, at(3));
  bool answered = false;
  verifier_.verify(job_, [&](const ArenaVerifier::Contents& c) {
    answered = true;
    EXPECT_EQ(c.held.at(at(3)).size(), 2u);
  });
  EXPECT_EQ(slow_.given.size(), 1u) << "the new block only";
  slow_.run();
  EXPECT_TRUE(answered);

  damage(block);
  const auto info = *arena_->info(storage::BlockIndex(block));
  EXPECT_FALSE(arena_->read_verified(info.index, *info.header)) << "whoever uses it";
  EXPECT_EQ(verify().damaged.size(), 1u);
}

// What a peer's replica or a fetch brought was summed where it lies when it was published.
TEST_F(ArenaVerifierTest, ReplicasThatWereCommittedAreNotSummedAgainCapturesAre) {
  const auto replica = arena_->allocate(job_.shard_bytes(0), NodeId("node-1"), kOne);
  const auto bytes = arena_->payload(replica->index)->first(job_.shard_bytes(0));
  ASSERT_TRUE(arena_->publish_verified(replica->index, kOne,
                                       {job_.hash, ShardId::unflat(0, job_.layout.slices()), at(3),
                                        bytes.size(), checksum64(bytes)}));
  bool told = false;
  verifier_.verify(job_, [&](const auto& c) { told = c.held.at(at(3)) == std::set<uint32_t>{0}; });
  EXPECT_TRUE(slow_.given.empty()) << "there is nothing to sum";
  EXPECT_TRUE(told);
  const uint32_t captured = put(1, at(3));
  damage(captured);
  const auto contents = verify();
  ASSERT_EQ(contents.damaged.size(), 1u);
  EXPECT_EQ(contents.damaged[0].first.index.value, captured);
  EXPECT_EQ(contents.held.at(at(3)), std::set<uint32_t>{0});
}

TEST_F(ArenaVerifierTest, WhatIsAskedMeanwhileComesAfterwardsAndOnlyTheNewest) {
  put(0, at(3));
  std::string told;
  verifier_.verify(job_, [&](const auto&) { told += "a"; });
  const size_t begun = slow_.given.size();
  verifier_.verify(job_, [&](const auto&) { told += "b"; });
  verifier_.verify(job_, [&](const auto& c) {
    told += "c";
    EXPECT_EQ(c.held.at(at(3)), std::set<uint32_t>{0});
  });
  EXPECT_EQ(slow_.given.size(), begun) << "nothing is summed twice at a time";
  slow_.run();
  EXPECT_EQ(told.size(), 2u);
  EXPECT_EQ(told.find('b'), told.npos);
}

TEST_F(ArenaVerifierTest, AnEmptyArenaIsToldAtOnce) { EXPECT_TRUE(verify().held.empty()); }

// On the real loop, with figures for those who read the output: one helper, all of them, and again.
TEST_F(ArenaVerifierTest, ALargeArenaIsSummedByAllHelpers) {
  struct OneHelper final : LoopPort {
    explicit OneHelper(LoopPort& all) : loop(all) {}
    void after_ms(int64_t ms, std::function<void()> action) override { loop.after_ms(ms, action); }
    void aside(std::function<void()> work, std::function<void()> done) override {
      loop.aside(std::move(work), std::move(done));
    }
    size_t helpers() const override { return 1; }
    LoopPort& loop;
  };
  constexpr uint64_t kBlock = 16 << 20;
  constexpr uint32_t kBlocks = 12;
  ASSERT_GE(job_.layout.shard_count(), kBlocks);
  const auto open = [&] {
    auto opened = storage::Arena::open({folder_ / "large", (kBlocks + 1) * kBlock, "test", self_});
    return opened ? std::move(*opened) : nullptr;
  };
  auto arena = open();
  if (!arena) GTEST_SKIP() << "no memory for " << kBlocks << " blocks of " << kBlock << " bytes";
  for (uint32_t shard = 0; shard < kBlocks; ++shard) {
    const auto block = arena->allocate(kBlock, self_, kOne);
    const auto payload = *arena->payload(block->index);
    std::memset(payload.data(), static_cast<int>(shard), kBlock);
    ASSERT_TRUE(arena->publish(block->index, kOne,
                               {job_.hash, ShardId::unflat(shard, job_.layout.slices()), at(3),
                                kBlock, checksum64(payload)}));
  }
  const auto measure = [&](const char* what, bool one) {
    boost::asio::io_context io;
    AsioLoop all(io);
    OneHelper single(all);
    ArenaVerifier fresh(*arena, one ? static_cast<LoopPort&>(single) : all);
    const auto work = boost::asio::make_work_guard(io);
    const auto start = std::chrono::steady_clock::now();
    size_t shards = 0;
    fresh.verify(job_, [&](const ArenaVerifier::Contents& c) {
      for (const auto& [state, held] : c.held) shards += held.size();
      io.stop();
    });
    io.run();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    EXPECT_EQ(shards, kBlocks);
    std::printf("%s: %.0f MB/s\n", what, kBlocks * kBlock / 1e6 / took.count());
  };
  const auto start_anew = [&] {  // a new process knows nothing
    arena.reset();
    arena = open();
  };
  start_anew();
  measure("one helper", true);
  start_anew();
  measure("all helpers", false);
  measure("summed before", false);
}

}  // namespace
}  // namespace holdfast::daemon
