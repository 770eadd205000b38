// The writer's and the reader's side of replication: brings captured blocks of the own arena to
// their holders, and shards from holders into the own arena. Holders are asked by messages
// (storage/replica/messages.h), the bytes go one-sided over the fabric.
//
// Runs on the event loop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "storage/arena/arena.h"
#include "storage/fabric/fabric.h"
#include "storage/replica/executor.h"

namespace holdfast::storage {

// Sends a request to a node's daemon and brings its reply, on the event loop, once;
// kPeerUnreachable and kTimeout are its own, other errors come from ReplicaServer::handle over
// there.
using PeerCall = std::function<void(const NodeId& peer, std::string target, std::string body,
                                    int64_t timeout_ms, std::function<void(Result<std::string>)>)>;

struct ReplicatorOptions {
  NodeId self;
  uint64_t session = 0;             // of this process; more than that of any before it on this node
  int64_t call_timeout_ms = 5'000;  // and a second more for every 64 MiB that the peer must check
};

struct HeldBlock {
  ShardId shard;
  BlockIndex block;
};

struct WantedShard {
  ShardId shard;
  uint64_t length = 0;  // what any good copy has: nothing else is read
};

struct HolderResult {
  NodeId holder;
  Status status;  // success: every shard is published and verified there
};

struct FetchResult {
  std::vector<HeldBlock> blocks;  // verified and published in the own arena
  std::vector<ShardId> failed;
  Error error;  // of the first that failed
};

class Replicator {
 public:
  // All of them outlive the replicator and whatever the executor still runs.
  Replicator(ReplicatorOptions options, Arena& arena, Fabric& fabric, Executor& executor,
             PeerCall call);
  ~Replicator();  // what is under way is not answered any more

  // Everything of older epochs ends with kEpochOld (answered later, not from inside this call),
  // every channel is closed: nothing that was asked for before is written any more when this
  // returns. Then holders are told.
  void set_epoch(Epoch epoch);

  // Replicates published blocks of the own arena, all of `state`, to every holder. `done` is called
  // once with one result a holder; one that fails does not hold up the others.
  void replicate(Epoch epoch, uint64_t job, const StateVersion& state,
                 const std::vector<HeldBlock>& blocks, const std::vector<NodeId>& holders,
                 std::function<void(std::vector<HolderResult>)> done);

  // Copies shards at `state` from one node. `done` is called once; each shard is in blocks or
  // failed.
  void fetch(Epoch epoch, uint64_t job, const StateVersion& state,
             const std::vector<WantedShard>& shards, const NodeId& from,
             std::function<void(FetchResult)> done);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace holdfast::storage
