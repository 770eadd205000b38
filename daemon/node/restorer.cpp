#include "daemon/node/restorer.h"

#include <fmt/format.h>

#include "base/fault_point.h"

namespace holdfast::daemon {

Restorer::Restorer(NodeId self, storage::Arena& arena, WorkerPort& workers, ReplicaPort& replicas,
                   ReportFn report)
    : self_(std::move(self)),
      arena_(arena),
      workers_(workers),
      replicas_(replicas),
      report_(std::move(report)) {}

void Restorer::restore(const NodeJob& job, const CommandRestore& command) {
  fault_point("node.restore");
  auto work = std::make_shared<Work>();
  work->command = command;
  work->job_hash = job.hash;
  const StateVersion base = command.view.base;
  for (const storage::BlockInfo& block : arena_.scan())
    if (block.header && block.header->job == job.hash && block.header->state == base)
      work->blocks[block.header->shard.flat(job.layout.slices())] = block.index.value;

  std::map<NodeId, std::vector<uint32_t>> wanted;
  std::vector<uint32_t> missing;
  for (const SourcedShard& shard : command.owned) {
    if (shard.source == ShardSource::kReplica && !work->blocks.contains(shard.shard))
      wanted[shard.from].push_back(shard.shard);
    if (shard.source == ShardSource::kArena && !work->blocks.contains(shard.shard))
      missing.push_back(shard.shard);
  }
  if (!missing.empty()) {
    fail_restore(*work, missing, self_,
                 {ErrorCode::kBlockMissing,
                  fmt::format("{} shards are not in the arena of {} at {}", missing.size(),
                              self_.value, to_string(base))});
    return;
  }
  work->fetches_open = static_cast<uint32_t>(wanted.size());
  if (wanted.empty()) {
    finish(*work);
    return;
  }
  for (const auto& [from, shards] : wanted)
    replicas_.fetch(command.view.epoch, job, base, shards, from,
                    [this, work, from = from](const Fetched& result) {
                      fetched(work, from, result);
                    });
}

void Restorer::fetched(const std::shared_ptr<Work>& work, const NodeId& from,
                       const Fetched& result) {
  --work->fetches_open;
  if (work->command.view.epoch != epoch_ || work->failed) return;
  for (const train::ShardBlock& b : result.blocks) work->blocks[b.shard] = b.block;
  if (!result.failed.empty()) {
    fail_restore(*work, result.failed, from, result.error);
    return;
  }
  if (work->fetches_open == 0) finish(*work);
}

void Restorer::fail_restore(Work& work, const std::vector<uint32_t>& shards, const NodeId& from,
                            const Error& error) {
  work.failed = true;
  report_(WorkerRestoreFailed{self_, 0, work.command.slot, work.command.view.epoch, shards, from,
                              error});
}

void Restorer::finish(const Work& work) {
  const View& view = work.command.view;
  train::Restore restore;
  restore.epoch = view.epoch;
  restore.base = view.base;
  restore.lane = work.command.lane;
  restore.lanes = static_cast<uint32_t>(view.members.size());
  for (const Member& member : view.members) {
    restore.coordinates.push_back(member.coordinate.pipeline.value);
    restore.stages.push_back(member.coordinate.stage.value);
  }
  restore.owner_lane = view.owner_lane;
  for (const SourcedShard& shard : work.command.owned) {
    train::OwnedShard owned{shard.shard, train::WorkerSource::kInitial, 0};
    switch (shard.source) {
      case ShardSource::kBuffer:
        owned.source = train::WorkerSource::kBuffer;
        break;
      case ShardSource::kArena:
      case ShardSource::kReplica:
        owned.source = train::WorkerSource::kArena;
        owned.block = work.blocks.at(shard.shard);
        break;
      case ShardSource::kInitial:
        break;
    }
    restore.owned.push_back(owned);
  }
  workers_.send(work.command.slot, restore);
}

}  // namespace holdfast::daemon
