#include "daemon/node/capture_keeper.h"

#include <fmt/format.h>

#include <algorithm>

namespace holdfast::daemon {

using storage::BlockIndex;
using storage::BlockInfo;
using train::ShardBlock;

CaptureKeeper::CaptureKeeper(NodeId self, storage::Arena& arena, WorkerPort& workers,
                             ReplicaPort& replicas, ReportFn report, const ArenaHolds* holds)
    : self_(std::move(self)),
      arena_(arena),
      workers_(workers),
      replicas_(replicas),
      report_(std::move(report)),
      holds_(holds) {
  for (const BlockInfo& block : arena_.scan())
    if (!block.header && block.writer == self_) inherited_.push_back(block);
}

void CaptureKeeper::set_epoch(Epoch epoch) {
  epoch_ = epoch;
  owners_.clear();
  watermark_.reset();
}

void CaptureKeeper::set_owner(uint32_t slot, Owner owner) { owners_[slot] = std::move(owner); }

// One that was published meanwhile is not ours to free, nor one that was freed and granted anew:
// the arena refuses that.
void CaptureKeeper::free_unpublished(const std::vector<BlockInfo>& grants) {
  for (const BlockInfo& grant : grants) {
    const auto info = arena_.info(grant.index);
    if (info && !info->header) (void)arena_.free(grant);
  }
}

void CaptureKeeper::free_published(const NodeJob& job, const train::Captured& message) {
  for (const ShardBlock& b : message.blocks) {
    const auto info = arena_.info(BlockIndex(b.block));
    if (info && info->header && info->header->job == job.hash &&
        info->header->state == message.state)
      (void)arena_.free(*info);
  }
}

void CaptureKeeper::release_grants(uint32_t slot) {
  for (auto it = grants_.begin(); it != grants_.end();) {
    if (it->first.first == slot) {
      free_unpublished(it->second.blocks);
      it = grants_.erase(it);
    } else {
      ++it;
    }
  }
}

void CaptureKeeper::release_inherited() {
  free_unpublished(inherited_);
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
  if (watermark_) std::erase(watermark_->abandoned, version);  // wanted after all
  for (const auto& [slot, owner] : owners_) grant(slot, job, version, attempt);
}

void CaptureKeeper::grant(uint32_t slot, const NodeJob& job, Version version, uint64_t attempt) {
  const Owner& owner = owners_.at(slot);
  if (const auto it = grants_.find({slot, version}); it != grants_.end()) {
    it->second.attempt = attempt;  // named again before the worker has answered
    return;
  }
  Grant grant{{}, existing_blocks(job, owner, version), attempt};
  std::vector<ShardBlock> asked;
  std::set<uint32_t> have;
  for (const ShardBlock& b : grant.existing) have.insert(b.shard);
  for (const uint32_t shard : owner.shards) {
    if (have.contains(shard)) continue;
    auto block = arena_.allocate(std::max<uint64_t>(job.shard_bytes(shard), 1), self_, owner.epoch);
    if (!block) {
      free_unpublished(grant.blocks);
      report_missed(slot, owner.epoch, version, block.error().to_string(), attempt);
      return;
    }
    grant.blocks.push_back(*block);
    asked.push_back({shard, block->index.value});
  }
  // The base lies here already: only the holders may lack it. A worker that owns no shard is asked
  // like any other, and says when it has made the version.
  if (grant.blocks.empty() && version == owner.base.version) {
    replicate(slot, job, owner.base, grant.existing, attempt);
    return;
  }
  workers_.send(slot, train::Capture{owner.epoch, version, asked});
  grants_[{slot, version}] = std::move(grant);
}

void CaptureKeeper::captured(uint32_t slot, const NodeJob& job, const train::Captured& message) {
  const auto owner = owners_.find(slot);
  if (owner == owners_.end() || message.epoch != owner->second.epoch) return;
  const auto granted = grants_.extract({slot, message.state.version});
  if (granted) {
    free_unpublished(granted.mapped().blocks);  // what the worker left over
    for (const ShardBlock& b : message.blocks) counters_.captured_bytes += job.shard_bytes(b.shard);
    counters_.capture_seconds += message.seconds;
  }
  // Nobody comes back to it: it was given up, or a newer one is safe.
  if (watermark_ && storage::may_free(message.state, *watermark_)) {
    free_published(job, message);
    return;
  }
  std::vector<ShardBlock> blocks = message.blocks;
  uint64_t attempt = 0;
  if (granted) {
    attempt = granted.mapped().attempt;
    const std::vector<ShardBlock>& existing = granted.mapped().existing;
    blocks.insert(blocks.end(), existing.begin(), existing.end());
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
  if (owner.holders.empty() || blocks.empty()) {  // nothing to bring to anybody
    report_(WorkerReplicated{self_, 0, slot, epoch, state, owner.holders, attempt});
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

void CaptureKeeper::step_done(uint32_t slot, const train::StepDone& done) {
  const std::pair told{done.epoch, done.step};
  const auto [newest, first] = newest_steps_.try_emplace(slot, told);
  if (!first && told <= newest->second) return;
  newest->second = told;
  counters_.stall_seconds += done.stall_seconds;
}

void CaptureKeeper::missed(uint32_t slot, const train::CaptureMissed& message) {
  uint64_t attempt = 0;
  if (const auto it = grants_.find({slot, message.version}); it != grants_.end()) {
    attempt = it->second.attempt;
    free_unpublished(it->second.blocks);
    grants_.erase(it);
  }
  report_missed(slot, message.epoch, message.version, message.why, attempt, message.too_late);
}

void CaptureKeeper::watermark(const NodeJob& job, const StateVersion& safe,
                              const std::vector<Version>& abandoned,
                              const std::vector<storage::ViewBase>& history) {
  watermark_ = {job.hash, safe, abandoned, history};
  for (const BlockInfo& block : storage::blocks_to_free(arena_.scan(), *watermark_))
    if (holds_ == nullptr || !holds_->covers(*block.header)) (void)arena_.free(block);
}

void CaptureKeeper::forget_other_jobs(uint64_t keep_hash) {
  for (const BlockInfo& block : arena_.scan())
    if (block.header && block.header->job != keep_hash) (void)arena_.free(block);
}

void CaptureKeeper::report_missed(uint32_t slot, Epoch epoch, Version version,
                                  const std::string& why, uint64_t attempt, bool too_late) {
  ++counters_.skipped;
  report_(WorkerCaptureMissed{self_, 0, slot, epoch, version, why, attempt, too_late});
}

}  // namespace holdfast::daemon
