#include "daemon/node/replica_adapter.h"

#include <set>
#include <utility>

#include "daemon/node/node_job.h"

namespace holdfast::daemon {

void ReplicaAdapter::set_epoch(Epoch epoch) {
  server_.set_epoch(epoch);
  replicator_.set_epoch(epoch);
}

void ReplicaAdapter::open_view(const View& view, const std::vector<NodeAddress>& nodes) {
  learn_(nodes);
  std::set<NodeId> members;
  for (const Member& member : view.members) members.insert(member.worker.node);
  server_.view_opened(view.epoch, members);
}

void ReplicaAdapter::replicate(Epoch epoch, uint64_t job, const StateVersion& state,
                               const std::vector<train::ShardBlock>& blocks,
                               const std::vector<NodeId>& holders,
                               std::function<void(std::vector<Replicated>)> done) {
  std::vector<storage::HeldBlock> held;
  for (const train::ShardBlock& b : blocks) {
    // One that is gone meanwhile names no shard, and the replicator says so.
    const auto info = arena_.info(storage::BlockIndex(b.block));
    held.push_back(
        {info && info->header ? info->header->shard : ShardId{}, storage::BlockIndex(b.block)});
  }
  replicator_.replicate(epoch, job, state, held, holders,
                        [done = std::move(done)](std::vector<storage::HolderResult> results) {
                          std::vector<Replicated> replicated;
                          for (storage::HolderResult& r : results)
                            replicated.push_back({std::move(r.holder), std::move(r.status)});
                          done(std::move(replicated));
                        });
}

void ReplicaAdapter::fetch(Epoch epoch, const NodeJob& job, const StateVersion& state,
                           const std::vector<uint32_t>& shards, const NodeId& from,
                           std::function<void(Fetched)> done) {
  const uint32_t slices = job.layout.slices();
  std::vector<storage::WantedShard> wanted;
  for (const uint32_t flat : shards)
    wanted.push_back({ShardId::unflat(flat, slices), job.shard_bytes(flat)});
  replicator_.fetch(epoch, job.hash, state, wanted, from,
                    [slices, done = std::move(done)](storage::FetchResult result) {
                      Fetched fetched;
                      for (const storage::HeldBlock& b : result.blocks)
                        fetched.blocks.push_back({b.shard.flat(slices), b.block.value});
                      for (const ShardId shard : result.failed)
                        fetched.failed.push_back(shard.flat(slices));
                      fetched.error = std::move(result.error);
                      done(std::move(fetched));
                    });
}

}  // namespace holdfast::daemon
