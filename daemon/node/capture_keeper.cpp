#include "daemon/node/capture_keeper.h"

#include <fmt/format.h>

#include <algorithm>

#include "storage/replica/retention.h"

namespace holdfast::daemon {

using storage::BlockIndex;
using storage::BlockInfo;
using train::ShardBlock;

CaptureKeeper::CaptureKeeper(NodeId self, storage::Arena& arena, WorkerPort& workers,
                             ReplicaPort& replicas, ReportFn report)
    : self_(std::move(self)),
      arena_(arena),
      workers_(workers),
      replicas_(replicas),
      report_(std::move(report)) {
  for (const BlockInfo& block : arena_.scan())
    if (!block.header && block.writer == self_) inherited_.push_back({0, block.index.value});
}

void CaptureKeeper::set_epoch(Epoch epoch) {
  epoch_ = epoch;
  owners_.clear();
}

void CaptureKeeper::set_owner(uint32_t slot, Owner owner) { owners_[slot] = std::move(owner); }

void CaptureKeeper::free_blocks(const std::vector<ShardBlock>& blocks) {
  // A block that was published or freed meanwhile is not ours to free: the call refuses, nothing is
  // lost.
  for (const ShardBlock& b : blocks) {
    const auto info = arena_.info(BlockIndex(b.block));
    if (info && !info->header) (void)arena_.free(BlockIndex(b.block));
  }
}

void CaptureKeeper::release_grants(uint32_t slot) {
  for (auto it = grants_.begin(); it != grants_.end();) {
    if (it->first.first == slot) {
      free_blocks(it->second.blocks);
      it = grants_.erase(it);
    } else {
      ++it;
    }
  }
}

void CaptureKeeper::release_inherited() {
  free_blocks(inherited_);
  inherited_.clear();
}

std::vector<ShardBlock> CaptureKeeper::existing_blocks(const NodeJob& job, const Owner& owner,
                                                       Version version) {
  std::vector<ShardBlock> existing;
  if (version != owner.base.version) return existing;
  const std::set<uint32_t> wanted(owner.shards.begin(), owner.shards.end());
  std::set<uint32_t> found;
  for (const BlockInfo& block : arena_.scan()) {
    if (!block.header || block.header->job != job.hash || block.header->state != owner.base)
      continue;
    const uint32_t shard = block.header->shard.flat(job.layout.slices());
    if (wanted.contains(shard) && found.insert(shard).second)
      existing.push_back({shard, block.index.value});
  }
  return existing;
}

void CaptureKeeper::capture(const NodeJob& job, Epoch epoch, Version version,
                            uint64_t attempt) {
  if (epoch != epoch_) return;
  for (const auto& [slot, owner] : owners_) grant(slot, job, version, attempt);
}

void CaptureKeeper::grant(uint32_t slot, const NodeJob& job, Version version, uint64_t attempt) {
  const Owner& owner = owners_.at(slot);
  if (const auto it = grants_.find({slot, version}); it != grants_.end()) {
    it->second.attempt = attempt;  // named again before the worker has answered
    return;
  }
  Grant grant{owner.epoch, {}, existing_blocks(job, owner, version), attempt};
  std::set<uint32_t> have;
  for (const ShardBlock& b : grant.existing) have.insert(b.shard);
  for (const uint32_t shard : owner.shards) {
    if (have.contains(shard)) continue;
    auto block = arena_.allocate(std::max<uint64_t>(job.shard_bytes(shard), 1), self_, owner.epoch);
    if (!block) {
      free_blocks(grant.blocks);
      report_missed(slot, owner.epoch, version, block.error().to_string(), attempt);
      return;
    }
    grant.blocks.push_back({shard, block->index.value});
  }
  if (grant.blocks.empty()) {  // the base lies here already: only the holders may lack it
    replicate(slot, job, owner.base, grant.existing, attempt);
    return;
  }
  workers_.send(slot, train::Capture{owner.epoch, version, grant.blocks});
  grants_[{slot, version}] = std::move(grant);
}

void CaptureKeeper::captured(uint32_t slot, const NodeJob& job, const train::Captured& message) {
  const auto owner = owners_.find(slot);
  if (owner == owners_.end() || message.epoch != owner->second.epoch) return;
  std::vector<ShardBlock> blocks = message.blocks;
  uint64_t attempt = 0;
  if (const auto it = grants_.find({slot, message.state.version}); it != grants_.end()) {
    attempt = it->second.attempt;
    blocks.insert(blocks.end(), it->second.existing.begin(), it->second.existing.end());
    grants_.erase(it);
  } else if (message.state.version == owner->second.base.version) {
    // Granted by an earlier daemon process: add what lay here already.
    std::set<uint32_t> have;
    for (const ShardBlock& b : blocks) have.insert(b.shard);
    for (const ShardBlock& b : existing_blocks(job, owner->second, message.state.version))
      if (!have.contains(b.shard)) blocks.push_back(b);
  }
  if (blocks.size() != owner->second.shards.size()) {
    report_missed(
        slot, message.epoch, message.state.version,
        fmt::format("{} of {} shards captured", blocks.size(), owner->second.shards.size()),
        attempt);
    return;
  }
  replicate(slot, job, message.state, std::move(blocks), attempt);
}

void CaptureKeeper::replicate(uint32_t slot, const NodeJob& job, const StateVersion& state,
                              std::vector<ShardBlock> blocks, uint64_t attempt) {
  const Owner& owner = owners_.at(slot);
  const Epoch epoch = owner.epoch;
  if (owner.holders.empty()) {
    report_(WorkerReplicated{self_, 0, slot, epoch, state, {}, attempt});
    return;
  }
  replicas_.replicate(epoch, job.hash, state, blocks, owner.holders,
                      [this, slot, epoch, state, attempt](std::vector<Replicated> results) {
                        WorkerReplicated done{self_, 0, slot, epoch, state, {}, attempt};
                        std::string why;
                        for (const Replicated& r : results) {
                          if (r.status) {
                            done.holders.push_back(r.holder);
                          } else {
                            why += fmt::format("{}: {} ", r.holder.value, r.status.error().message);
                          }
                        }
                        if (why.empty()) {
                          report_(std::move(done));
                        } else if (epoch == epoch_) {
                          report_missed(slot, epoch, state.version, why, attempt);
                        }
                      });
}

void CaptureKeeper::missed(uint32_t slot, const train::CaptureMissed& message) {
  uint64_t attempt = 0;
  if (const auto it = grants_.find({slot, message.version}); it != grants_.end()) {
    attempt = it->second.attempt;
    free_blocks(it->second.blocks);
    grants_.erase(it);
  }
  report_missed(slot, message.epoch, message.version, message.why, attempt);
}

void CaptureKeeper::watermark(const NodeJob& job, const StateVersion& safe,
                              const std::vector<Version>& abandoned,
                              const std::vector<storage::ViewBase>& history) {
  const std::vector<BlockInfo> blocks = arena_.scan();
  for (const BlockIndex block :
       storage::blocks_to_free(blocks, {job.hash, safe, abandoned, history}))
    (void)arena_.free(block);
}

void CaptureKeeper::forget_job(uint64_t job_hash) {
  for (const BlockInfo& block : arena_.scan())
    if (block.header && block.header->job == job_hash) (void)arena_.free(block.index);
}

void CaptureKeeper::forget_other_jobs(uint64_t keep_hash) {
  for (const BlockInfo& block : arena_.scan())
    if (block.header && block.header->job != keep_hash) (void)arena_.free(block.index);
}

void CaptureKeeper::report_missed(uint32_t slot, Epoch epoch, Version version,
                                  const std::string& why, uint64_t attempt) {
  ++skipped_;
  report_(WorkerCaptureMissed{self_, 0, slot, epoch, version, why, attempt});
}

}  // namespace holdfast::daemon
