// A node's agent between fakes of its ports, over a real arena in tmpfs.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/checksum.h"
#include "daemon/node/job_agent.h"
#include "daemon/node/ports.h"
#include "storage/arena/arena.h"

namespace holdfast::daemon {

struct FakeWorkers final : WorkerPort {
  void ensure(uint32_t slot) override { calls.push_back(fmt::format("ensure {}", slot)); }
  void send(uint32_t slot, const train::ToWorker& message) override {
    sent.emplace_back(slot, message);
  }
  void kill(uint32_t slot, const std::string& why) override {
    calls.push_back(fmt::format("kill {}: {}", slot, why));
  }
  void stop(uint32_t slot) override { calls.push_back(fmt::format("stop {}", slot)); }

  // The newest message of this type; fails the test when there is none.
  template <class Message>
  Message last() const {
    for (auto it = sent.rbegin(); it != sent.rend(); ++it)
      if (const auto* m = std::get_if<Message>(&it->second)) return *m;
    ADD_FAILURE() << "no such message was sent to a worker";
    return {};
  }
  template <class Message>
  size_t count() const {
    size_t n = 0;
    for (const auto& [slot, message] : sent) n += std::holds_alternative<Message>(message) ? 1 : 0;
    return n;
  }

  std::vector<std::pair<uint32_t, train::ToWorker>> sent;
  std::vector<std::string> calls;
};

struct FakeReplicas final : ReplicaPort {
  struct Replication {
    Epoch epoch;
    StateVersion state;
    std::vector<train::ShardBlock> blocks;
    std::vector<NodeId> holders;
    std::function<void(std::vector<Replicated>)> done;
  };
  struct Fetch {
    StateVersion state;
    std::vector<uint32_t> shards;
    NodeId from;
    std::function<void(Fetched)> done;
  };
  void set_epoch(Epoch e) override { epoch = e; }
  void open_view(const View& view, const std::vector<NodeAddress>& nodes) override {
    opened = view.epoch;
    addresses = nodes;
  }
  void replicate(Epoch e, uint64_t, const StateVersion& state,
                 const std::vector<train::ShardBlock>& blocks, const std::vector<NodeId>& holders,
                 std::function<void(std::vector<Replicated>)> done) override {
    replications.push_back({e, state, blocks, holders, std::move(done)});
  }
  void fetch(Epoch, const NodeJob&, const StateVersion& state, const std::vector<uint32_t>& shards,
             const NodeId& from, std::function<void(Fetched)> done) override {
    fetches.push_back({state, shards, from, std::move(done)});
  }

  Epoch epoch, opened;
  std::vector<NodeAddress> addresses;
  std::vector<Replication> replications;
  std::vector<Fetch> fetches;
};

// Time passes when the test says so.
struct FakeLoop final : LoopPort {
  void after_ms(int64_t, std::function<void()> action) override {
    timers.push_back(std::move(action));
  }
  void aside(std::function<void()> work, std::function<void()> done) override {
    work();
    done();
  }
  size_t helpers() const override { return 2; }
  void fire() {
    for (const auto& action : std::exchange(timers, {})) action();
  }
  std::vector<std::function<void()>> timers;
};

inline conf::JobConfig tiny_job(const std::string& name = "tiny") {
  conf::JobConfig job;
  job.name = JobId(name);
  job.pipelines = 2;
  job.model.vocabulary = 8;
  job.model.layers = 1;
  job.model.width = 4;
  job.model.heads = 2;
  job.model.kv_heads = 1;
  job.model.experts = 2;
  job.model.expert_width = 4;
  job.model.context = 4;
  return job;
}

class NodeTest : public ::testing::Test {
 protected:
  NodeTest() : job_(tiny_job(), Epoch{1, 1}) {
    std::string name = std::filesystem::exists("/dev/shm") ? "/dev/shm" : "/tmp";
    name += "/holdfast-node-test-XXXXXX";
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    auto opened = storage::Arena::open({folder_ / "arena", 4 << 20, "test", self_},
                                       [](const storage::BlockInfo&) { return true; });
    EXPECT_TRUE(opened) << opened.error().to_string();
    arena_ = std::move(*opened);
  }
  ~NodeTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  ReportFn report() {
    return [this](NodeEvent event) { reported_.push_back(std::move(event)); };
  }
  template <class Event>
  Event last() const {
    for (auto it = reported_.rbegin(); it != reported_.rend(); ++it)
      if (const auto* e = std::get_if<Event>(&*it)) return *e;
    ADD_FAILURE() << "no such event was reported";
    return {};
  }
  template <class Event>
  size_t count() const {
    size_t n = 0;
    for (const NodeEvent& event : reported_) n += std::holds_alternative<Event>(event) ? 1 : 0;
    return n;
  }

  // Publishes a granted block as a worker does.
  void write(uint32_t block, uint32_t shard, const StateVersion& state, Epoch granted_in) {
    const uint64_t bytes = job_.shard_bytes(shard);
    const auto payload = arena_->payload(storage::BlockIndex(block));
    ASSERT_TRUE(payload) << payload.error().to_string();
    std::memset(payload->data(), static_cast<int>(shard + state.version.value), bytes);
    const Status published =
        arena_->publish(storage::BlockIndex(block), granted_in,
                        {job_.hash, ShardId::unflat(shard, job_.layout.slices()), state, bytes,
                         checksum64(payload->first(bytes))});
    ASSERT_TRUE(published) << published.error().to_string();
  }
  uint32_t put(uint32_t shard, const StateVersion& state) {
    const auto block = arena_->allocate(job_.shard_bytes(shard), self_, state.made);
    EXPECT_TRUE(block);
    write(block->index.value, shard, state, state.made);
    return block->index.value;
  }
  // States of the published blocks, and how many blocks are only allocated.
  std::multiset<StateVersion> held() const {
    std::multiset<StateVersion> states;
    for (const storage::BlockInfo& b : arena_->scan())
      if (b.header) states.insert(b.header->state);
    return states;
  }
  size_t granted() const {
    size_t n = 0;
    for (const storage::BlockInfo& b : arena_->scan()) n += b.header ? 0 : 1;
    return n;
  }

  const NodeId self_{"node-0"};
  NodeJob job_;
  std::filesystem::path folder_;
  std::unique_ptr<storage::Arena> arena_;
  FakeWorkers workers_;
  FakeReplicas replicas_;
  FakeLoop loop_;
  std::vector<NodeEvent> reported_;
};

}  // namespace holdfast::daemon
