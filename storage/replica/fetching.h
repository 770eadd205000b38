// The reader's half of Replicator: locate, read, verify, publish.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "storage/replica/messages.h"
#include "storage/replica/peer_links.h"
#include "storage/replica/replicator.h"

namespace holdfast::storage {

class Fetching : public std::enable_shared_from_this<Fetching> {
 public:
  using Done = std::function<void(FetchResult)>;

  Fetching(const ReplicatorOptions& options, Arena& arena, PeerLinks& links, Executor& executor,
           const PeerCall& call);

  // The caller has closed every link.
  void set_epoch(Epoch epoch);
  void start(Epoch epoch, uint64_t job, const StateVersion& state,
             const std::vector<WantedShard>& shards, const NodeId& from, Done done);

 private:
  struct Reading {
    BlockInfo block;
    BlockHeader header;
    uint64_t link = 0;
  };
  struct Fetch {
    Epoch epoch;
    uint64_t job = 0;
    StateVersion state;
    NodeId from;
    std::map<ShardId, uint64_t> lengths;  // of all that was asked for
    std::set<ShardId> wanted;            // neither read nor failed
    std::map<ShardId, Reading> reading;  // their blocks are ours to free once the read is over
    FetchResult result;
    Done done;
    bool ended = false;
  };
  using FetchPtr = std::shared_ptr<Fetch>;

  void located(const FetchPtr& fetch, const Result<std::string>& reply);
  Status check(const Fetch& fetch, const LocateReply& reply) const;
  Status read_all(const FetchPtr& fetch, const std::string& text);
  void read_done(const FetchPtr& fetch, ShardId shard, const Status& status);
  void verify(const FetchPtr& fetch, ShardId shard);
  void verified(const FetchPtr& fetch, const Reading& reading, bool good);
  void shard_failed(const FetchPtr& fetch, ShardId shard, const Error& error);
  void all_failed(const FetchPtr& fetch, const Error& error);
  void end_if_settled(const FetchPtr& fetch);

  const ReplicatorOptions options_;
  Arena& arena_;
  PeerLinks& links_;
  Executor& executor_;
  const PeerCall call_;
  Epoch epoch_;
  std::set<FetchPtr> open_;
};

}  // namespace holdfast::storage
