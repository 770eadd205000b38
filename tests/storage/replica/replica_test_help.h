// A cluster in one thread, driven from a seed (replica_test_net.h), whose requests may be lost. The
// arenas are real files.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/checksum.h"
#include "storage/arena/arena.h"
#include "storage/fabric/fabric.h"
#include "storage/replica/executor.h"
#include "storage/replica/replica_server.h"
#include "storage/replica/replicator.h"
#include "tests/storage/replica/replica_test_net.h"

namespace holdfast::storage {

inline constexpr uint64_t kTestJob = 77;
inline constexpr int64_t kTestQuarantine = 1'000;
inline constexpr uint64_t kTestArenaBytes = 4 << 20;

// Known bytes of a shard at a state; length by shard.
inline uint64_t shard_length(ShardId shard) { return 1 + shard.group.value * 1'500; }
inline std::vector<std::byte> shard_bytes(ShardId shard, const StateVersion& state) {
  std::mt19937_64 random(shard.group.value * 1'000'003 + state.version.value * 997 +
                         state.made.packed());
  std::vector<std::byte> bytes(shard_length(shard));
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

inline WantedShard wanted_shard(uint32_t group) {
  const ShardId shard{GroupIndex(group), SliceIndex(0)};
  return {shard, shard_length(shard)};
}

// One node: arena, fabric and both sides of replication. Destroying it is the end of its process;
// the arena file stays.
struct TestNode {
  TestNode(const std::filesystem::path& folder, const std::string& name, uint64_t session,
           Executor& loop, const std::function<std::unique_ptr<Fabric>(Arena&)>& open_fabric,
           const PeerCall& call, int64_t quarantine_ms = kTestQuarantine)
      : id(name), executor(loop) {
    auto opened = Arena::open({folder / name, kTestArenaBytes, "test", id});
    EXPECT_TRUE(opened) << opened.error().to_string();
    arena = std::move(*opened);
    fabric = open_fabric(*arena);
    server = std::make_unique<ReplicaServer>(
        ReplicaServerOptions{id, fabric->address(), quarantine_ms}, *arena, executor);
    replicator = std::make_unique<Replicator>(ReplicatorOptions{id, session, 5'000}, *arena,
                                              *fabric, executor, call);
  }
  void set_epoch(Epoch epoch) {
    server->set_epoch(epoch);
    replicator->set_epoch(epoch);
  }
  // Publishes shards 0 .. count-1 at `state`, as a worker does.
  std::vector<HeldBlock> capture(uint32_t first, uint32_t count, const StateVersion& state) {
    std::vector<HeldBlock> blocks;
    for (uint32_t i = first; i < first + count; ++i) {
      const ShardId shard{GroupIndex(i), SliceIndex(0)};
      const std::vector<std::byte> bytes = shard_bytes(shard, state);
      const auto block = arena->allocate(bytes.size(), id, state.made);
      EXPECT_TRUE(block) << block.error().to_string();
      std::memcpy(arena->payload(block->index)->data(), bytes.data(), bytes.size());
      const Status published =
          arena->publish(block->index, state.made,
                         {kTestJob, shard, state, bytes.size(), checksum64(std::span(bytes))});
      EXPECT_TRUE(published) << published.error().to_string();
      blocks.push_back({shard, block->index});
    }
    return blocks;
  }
  // Shards at `state` whose block has the bytes that were captured.
  std::set<uint32_t> good_shards(const StateVersion& state) {
    std::set<uint32_t> shards;
    for (const BlockInfo& block : arena->scan()) {
      if (!block.header || block.header->state != state) continue;
      const auto bytes = arena->read_verified(block.index, *block.header);
      if (bytes && std::ranges::equal(*bytes, shard_bytes(block.header->shard, state)))
        shards.insert(block.header->shard.group.value);
    }
    return shards;
  }
  // A published block whose bytes are not those of its header, or "".
  std::string damaged() {
    for (const BlockInfo& block : arena->scan()) {
      if (!block.header) continue;
      if (const auto bytes = arena->read_verified(block.index, *block.header); !bytes)
        return bytes.error().message;
    }
    return "";
  }

  NodeId id;
  ProcessExecutor executor;
  std::unique_ptr<Arena> arena;
  std::unique_ptr<Fabric> fabric;
  std::unique_ptr<ReplicaServer> server;
  std::unique_ptr<Replicator> replicator;
};

class TestFolder {
 public:
  TestFolder() {
    std::string name = std::filesystem::exists("/dev/shm") ? "/dev/shm" : "/tmp";
    name += "/holdfast-replica-test-XXXXXX";
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  ~TestFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Three nodes of one seed.
class SeededCluster {
 public:
  explicit SeededCluster(uint32_t seed, int64_t quarantine_ms = kTestQuarantine)
      : loop(seed), net(loop, trouble), quarantine_ms_(quarantine_ms) {
    for (uint32_t i = 0; i < 3; ++i) start(i);
  }
  ~SeededCluster() { nodes.clear(); }

  TestNode& operator[](uint32_t i) { return *nodes.at(NodeId(fmt::format("n{}", i))); }
  static NodeId id(uint32_t i) { return NodeId(fmt::format("n{}", i)); }
  void start(uint32_t i) {
    nodes[id(i)] = std::make_unique<TestNode>(
        folder.path(), id(i).value, ++sessions_, loop,
        [this, i](Arena& arena) {
          return net.open(fmt::format("{}#{}", id(i).value, sessions_), arena.bytes());
        },
        [this](const NodeId& peer, std::string target, std::string body, int64_t timeout_ms,
               std::function<void(Result<std::string>)> done) {
          call(peer, target, body, timeout_ms, std::move(done));
        },
        quarantine_ms_);
  }
  void stop(uint32_t i) { nodes.erase(id(i)); }
  void set_epoch(Epoch epoch) {
    for (auto& [name, node] : nodes) node->set_epoch(epoch);
  }

  // Everything replicated so far, or the error of each holder.
  std::map<NodeId, Status> replicate(uint32_t from, Epoch epoch, const StateVersion& state,
                                     const std::vector<HeldBlock>& blocks,
                                     const std::vector<NodeId>& holders) {
    std::map<NodeId, Status> results;
    (*this)[from].replicator->replicate(epoch, kTestJob, state, blocks, holders,
                                        [&](const std::vector<HolderResult>& all) {
                                          for (const HolderResult& r : all)
                                            results[r.holder] = r.status;
                                        });
    loop.drain();
    EXPECT_EQ(results.size(), holders.size());
    return results;
  }
  FetchResult fetch(uint32_t to, Epoch epoch, const StateVersion& state, uint32_t count,
                    uint32_t from) {
    std::vector<WantedShard> shards;
    for (uint32_t i = 0; i < count; ++i) shards.push_back(wanted_shard(i));
    std::optional<FetchResult> result;
    (*this)[to].replicator->fetch(epoch, kTestJob, state, shards, id(from),
                                  [&](FetchResult r) { result = std::move(r); });
    loop.drain();
    EXPECT_TRUE(result);
    return result ? *result : FetchResult{};
  }

  // Called with the target before a request is carried out there.
  std::function<void(const NodeId& peer, const std::string& target)> before_request;
  // Changes a reply on its way.
  std::function<void(const std::string& target, std::string& reply)> tamper;

  Trouble trouble;
  TestFolder folder;
  SeededLoop loop;
  SeededFabricNet net;
  std::map<NodeId, std::unique_ptr<TestNode>> nodes;

 private:
  void call(const NodeId& peer, const std::string& target, const std::string& body,
            int64_t timeout_ms, std::function<void(Result<std::string>)> done) {
    auto once = std::make_shared<std::function<void(Result<std::string>)>>(std::move(done));
    const auto answer = [once](Result<std::string> result) {
      if (auto call = std::exchange(*once, nullptr)) call(std::move(result));
    };
    const auto give_up = [this, answer, peer, timeout_ms] {
      loop.after_ms(timeout_ms, [answer, peer] {
        answer(fail(ErrorCode::kTimeout, peer.value + " does not answer"));
      });
    };
    if (loop.chance(trouble.request_lost)) return give_up();
    loop.after_ms(loop.pick(10), [=, this] {
      const auto node = nodes.find(peer);
      if (node == nodes.end())
        return answer(fail(ErrorCode::kPeerUnreachable, peer.value + " is not there"));
      if (before_request) before_request(peer, target);
      give_up();  // the process may end before it replies
      node->second->server->handle(target, body, [=, this](Result<std::string> reply) {
        if (loop.chance(trouble.request_lost)) return;
        if (tamper && reply) tamper(target, *reply);
        loop.after_ms(loop.pick(10), [answer, reply = std::move(reply)] { answer(reply); });
      });
    });
  }

  const int64_t quarantine_ms_;
  uint64_t sessions_ = 0;
};

}  // namespace holdfast::storage
