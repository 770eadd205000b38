// The same over the fabric's in-process twin: progress thread, helper threads and event loop for
// real.
#include <array>
#include <chrono>
#include <deque>
#include <thread>

#include "base/mutex.h"
#include "tests/storage/replica/replica_test_help.h"

namespace holdfast::storage {
namespace {

constexpr Epoch kOne{1, 1};
constexpr Epoch kTwo{1, 2};
constexpr uint32_t kFabricTimeout = 300;
const StateVersion kState{Version(5), kOne};
const std::set<uint32_t> kAll = {0, 1, 2, 3, 4, 5, 6, 7};

// The test's thread is the event loop while it waits for something.
class ThreadedLoop final : public Executor {
 public:
  using Clock = std::chrono::steady_clock;

  ThreadedLoop() {
    for (std::thread& helper : helpers_) helper = std::thread([this] { help(); });
  }
  ~ThreadedLoop() override { finish(); }

  // Nothing runs any more when this returns.
  void finish() {
    {
      const MutexLock lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (std::thread& helper : helpers_)
      if (helper.joinable()) helper.join();
  }

  void post(std::function<void()> action) override { after_ms(0, std::move(action)); }
  void aside(std::function<void()> work, std::function<void()> done) override {
    {
      const MutexLock lock(mutex_);
      work_.push_back([this, work = std::move(work), done = std::move(done)]() mutable {
        work();
        work = nullptr;
        post(std::move(done));
      });
    }
    changed_.notify_all();
  }
  size_t helpers() const override { return helpers_.size(); }
  void after_ms(int64_t ms, std::function<void()> action) override {
    {
      const MutexLock lock(mutex_);
      actions_.emplace(Clock::now() + std::chrono::milliseconds(ms), std::move(action));
    }
    changed_.notify_all();
  }

  // False when it did not come true within ten seconds.
  bool run_until(const std::function<bool()>& condition) {
    const auto deadline = Clock::now() + std::chrono::seconds(10);
    while (!condition()) {
      std::function<void()> action;
      {
        MutexLock lock(mutex_);
        if (Clock::now() >= deadline) return false;
        if (actions_.empty() || actions_.begin()->first > Clock::now()) {
          changed_.wait_until(
              mutex_, actions_.empty() ? deadline : std::min(deadline, actions_.begin()->first));
          continue;
        }
        action = std::move(actions_.begin()->second);
        actions_.erase(actions_.begin());
      }
      action();
    }
    return true;
  }

 private:
  void help() {
    for (;;) {
      std::function<void()> work;
      {
        MutexLock lock(mutex_);
        while (work_.empty() && !stopping_) changed_.wait(mutex_);
        if (work_.empty()) return;
        work = std::move(work_.front());
        work_.pop_front();
      }
      work();
    }
  }

  Mutex mutex_;
  CondVar changed_;
  std::multimap<Clock::time_point, std::function<void()>> actions_ GUARDED_BY(mutex_);
  std::deque<std::function<void()>> work_ GUARDED_BY(mutex_);
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::array<std::thread, 2> helpers_;
};

class ReplicationThreads : public ::testing::Test {
 protected:
  ReplicationThreads() {
    for (uint32_t i = 0; i < 3; ++i) {
      const std::string name = fmt::format("n{}", i);
      nodes_[NodeId(name)] = std::make_unique<TestNode>(
          folder_.path(), name, 1, loop_,
          [&](Arena& arena) { return *network_.open(name, arena.bytes(), kFabricTimeout); },
          [this](const NodeId& peer, const std::string& target, const std::string& body, int64_t,
                 const std::function<void(Result<std::string>)>& done) {
            loop_.post([=, this] { nodes_.at(peer)->server->handle(target, body, done); });
          });
      nodes_[NodeId(name)]->set_epoch(kOne);
    }
  }
  ~ReplicationThreads() override {
    loop_.finish();  // helpers use the nodes, and the nodes' last words go to the loop
    nodes_.clear();
  }
  TestNode& node(uint32_t i) { return *nodes_.at(NodeId(fmt::format("n{}", i))); }

  using Results = std::map<NodeId, Status>;
  std::shared_ptr<Results> start(Epoch epoch, const StateVersion& state,
                                 const std::vector<HeldBlock>& blocks,
                                 const std::vector<NodeId>& holders) {
    auto results = std::make_shared<Results>();
    node(0).replicator->replicate(epoch, kTestJob, state, blocks, holders,
                                  [results](const std::vector<HolderResult>& all) {
                                    for (const HolderResult& r : all)
                                      (*results)[r.holder] = r.status;
                                  });
    return results;
  }
  Results replicate(Epoch epoch, const StateVersion& state, const std::vector<HeldBlock>& blocks,
                    const std::vector<NodeId>& holders) {
    const auto results = start(epoch, state, blocks, holders);
    EXPECT_TRUE(loop_.run_until([&] { return !results->empty(); }));
    return *results;
  }

  const std::vector<NodeId> both_ = {NodeId("n1"), NodeId("n2")};
  TestFolder folder_;
  FabricNetwork network_;
  ThreadedLoop loop_;
  std::map<NodeId, std::unique_ptr<TestNode>> nodes_;
};

TEST_F(ReplicationThreads, RoundTripIsByteEqual) {
  const auto blocks = node(0).capture(0, 8, kState);
  for (const auto& [holder, status] : replicate(kOne, kState, blocks, both_))
    EXPECT_TRUE(status) << holder.value << ": " << status.error().to_string();
  EXPECT_EQ(node(1).good_shards(kState), kAll);
  EXPECT_EQ(node(2).good_shards(kState), kAll);

  for (const HeldBlock& b : blocks) ASSERT_TRUE(node(0).arena->free(*node(0).arena->info(b.block)));
  std::vector<WantedShard> shards;
  for (const HeldBlock& b : blocks) shards.push_back({b.shard, shard_length(b.shard)});
  std::optional<FetchResult> fetched;
  node(0).replicator->fetch(kOne, kTestJob, kState, shards, NodeId("n2"),
                            [&](FetchResult result) { fetched = std::move(result); });
  ASSERT_TRUE(loop_.run_until([&] { return fetched.has_value(); }));
  EXPECT_TRUE(fetched->failed.empty()) << fetched->error.to_string();
  EXPECT_EQ(node(0).good_shards(kState), kAll);
}

TEST_F(ReplicationThreads, PeerThatIsCutFailsAndTheOtherSucceeds) {
  const auto blocks = node(0).capture(0, 8, kState);
  network_.silence("n1");
  const auto results = start(kOne, kState, blocks, both_);
  ASSERT_TRUE(loop_.run_until([&] { return node(1).server->granted_blocks() > 0; }));
  network_.cut("n1");
  ASSERT_TRUE(loop_.run_until([&] { return !results->empty(); }));
  ASSERT_FALSE(results->at(NodeId("n1")));
  EXPECT_EQ(results->at(NodeId("n1")).error().code, ErrorCode::kFabricLost);
  EXPECT_TRUE(results->at(NodeId("n2")));
  EXPECT_EQ(node(2).good_shards(kState), kAll);
  EXPECT_TRUE(node(1).good_shards(kState).empty());
}

// A holder that is stopped holds up nobody else, and what was written to it meanwhile lands when it
// wakes up: in blocks that nobody was granted again.
TEST_F(ReplicationThreads, WhatLandsWhenAStoppedHolderWakesTouchesNoPublishedBlock) {
  const auto blocks = node(0).capture(0, 8, kState);
  EXPECT_TRUE(replicate(kOne, kState, blocks, both_).at(NodeId("n1")));  // connected from here on
  const StateVersion next{Version(6), kOne};
  const auto more = node(0).capture(0, 8, next);
  network_.silence("n1");
  const Results stopped = replicate(kOne, next, more, both_);
  ASSERT_FALSE(stopped.at(NodeId("n1")));
  EXPECT_EQ(stopped.at(NodeId("n1")).error().code, ErrorCode::kFabricTimeout);
  EXPECT_TRUE(stopped.at(NodeId("n2")));

  for (uint32_t i = 0; i < 3; ++i) node(i).set_epoch(kTwo);
  const StateVersion anew{Version(6), kTwo};
  const auto again = node(0).capture(0, 8, anew);
  ASSERT_TRUE(loop_.run_until([&] { return node(1).server->granted_blocks() == 8; }));
  const auto results = start(kTwo, anew, again, both_);
  ASSERT_TRUE(loop_.run_until([&] { return node(1).server->granted_blocks() == 16; }));
  network_.resume("n1");
  ASSERT_TRUE(loop_.run_until([&] { return !results->empty(); }));
  EXPECT_TRUE(results->at(NodeId("n1"))) << results->at(NodeId("n1")).error().to_string();
  EXPECT_EQ(node(1).damaged(), "");
  EXPECT_EQ(node(1).good_shards(anew), kAll);
  EXPECT_TRUE(node(1).good_shards(next).empty());
  EXPECT_TRUE(loop_.run_until([&] { return node(1).server->granted_blocks() == 0; }));
}

TEST_F(ReplicationThreads, ANewEpochEndsWhatIsUnderWayAtOnce) {
  const auto blocks = node(0).capture(0, 8, kState);
  network_.silence("n1");
  network_.silence("n2");
  const auto results = start(kOne, kState, blocks, both_);
  ASSERT_TRUE(loop_.run_until([&] { return node(1).server->granted_blocks() > 0; }));
  const auto before = ThreadedLoop::Clock::now();
  node(0).set_epoch(kTwo);
  ASSERT_TRUE(loop_.run_until([&] { return !results->empty(); }));
  EXPECT_LT(ThreadedLoop::Clock::now() - before, std::chrono::milliseconds(kFabricTimeout));
  for (const auto& [holder, status] : *results)
    EXPECT_EQ(status.error().code, ErrorCode::kEpochOld) << holder.value;
}

}  // namespace
}  // namespace holdfast::storage
