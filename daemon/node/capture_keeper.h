// A node's side of snapshots: grants arena blocks for a capture, replicates what was captured, and
// frees what the watermark has passed. One instance a daemon, on its event loop.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daemon/node/arena_holds.h"
#include "daemon/node/node_job.h"
#include "daemon/node/ports.h"
#include "storage/arena/arena.h"
#include "storage/replica/history.h"
#include "storage/replica/retention.h"

namespace holdfast::daemon {

// Since the process started, over all workers of the node.
struct SnapshotCounters {
  uint64_t skipped = 0;          // captures that were named and could not be kept
  uint64_t captured_bytes = 0;   // published in the arena by workers
  double capture_seconds = 0;    // that they took for it, beside training
  double stall_seconds = 0;      // that updates waited for captures
};

class CaptureKeeper {
 public:
  // `holds` (nullptr: none): states that the watermark leaves alone.
  CaptureKeeper(NodeId self, storage::Arena& arena, WorkerPort& workers, ReplicaPort& replicas,
                ReportFn report, const ArenaHolds* holds = nullptr);

  // What a worker owns in the open view.
  struct Owner {
    Epoch epoch;
    StateVersion base;
    std::vector<uint32_t> shards;
    std::vector<NodeId> holders;
  };
  void set_owner(uint32_t slot, Owner owner);

  // A new epoch: captures of older ones are over. Their grants go back with release_grants, once the
  // caller knows that the slot's worker is idle or reaped.
  void set_epoch(Epoch epoch);
  void release_grants(uint32_t slot);
  // Blocks that workers of an earlier daemon process were granted; once all of those are idle or
  // reaped.
  void release_inherited();

  void capture(const NodeJob& job, Epoch epoch, Version version, uint64_t attempt = 0);
  void captured(uint32_t slot, const NodeJob& job, const train::Captured& message);
  void missed(uint32_t slot, const train::CaptureMissed& message);

  // Frees what is older than the safe version, void, or abandoned, and not held.
  void watermark(const NodeJob& job, const StateVersion& safe,
                 const std::vector<Version>& abandoned,
                 const std::vector<storage::ViewBase>& history);
  // Frees every published block of other jobs than this.
  void forget_other_jobs(uint64_t keep_hash);

  // For the counters; one that was told before is not counted again.
  void step_done(uint32_t slot, const train::StepDone& done);
  const SnapshotCounters& counters() const { return counters_; }

 private:
  struct Grant {
    std::vector<storage::BlockInfo> blocks;   // granted to the worker for this capture
    std::vector<train::ShardBlock> existing;  // published at this state already
    uint64_t attempt = 0;
  };
  void grant(uint32_t slot, const NodeJob& job, Version version, uint64_t attempt);
  std::vector<train::ShardBlock> existing_blocks(const NodeJob& job, const Owner& owner,
                                                 Version version);
  void replicate(uint32_t slot, const NodeJob& job, const StateVersion& state,
                 std::vector<train::ShardBlock> blocks, uint64_t attempt);
  void report_missed(uint32_t slot, Epoch epoch, Version version, const std::string& why,
                     uint64_t attempt, bool too_late = false);
  void free_unpublished(const std::vector<storage::BlockInfo>& grants);
  void free_published(const NodeJob& job, const train::Captured& message);

  const NodeId self_;
  storage::Arena& arena_;
  WorkerPort& workers_;
  ReplicaPort& replicas_;
  const ReportFn report_;
  const ArenaHolds* const holds_;
  Epoch epoch_;
  std::map<uint32_t, Owner> owners_;                       // by slot
  std::map<std::pair<uint32_t, Version>, Grant> grants_;   // by slot and version
  std::vector<storage::BlockInfo> inherited_;
  SnapshotCounters counters_;
  std::map<uint32_t, std::pair<Epoch, Step>> newest_steps_;  // that were counted, by slot
  std::optional<storage::Watermark> watermark_;  // the last one of this epoch
};

}  // namespace holdfast::daemon
