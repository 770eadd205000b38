// Brings the shards that a worker will own to where it can load them: finds them in the own arena,
// fetches replicas from other nodes, then tells the worker to restore.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "daemon/node/node_job.h"
#include "daemon/node/ports.h"
#include "storage/arena/arena.h"

namespace holdfast::daemon {

class Restorer {
 public:
  Restorer(NodeId self, storage::Arena& arena, WorkerPort& workers, ReplicaPort& replicas,
           ReportFn report);

  void set_epoch(Epoch epoch) { epoch_ = epoch; }
  // Ends with Restore sent to the worker or WorkerRestoreFailed reported.
  void restore(const NodeJob& job, const CommandRestore& command);

 private:
  struct Work {
    CommandRestore command;
    uint64_t job_hash = 0;
    std::map<uint32_t, uint32_t> blocks;  // shard -> block, of this node's arena at the base
    uint32_t fetches_open = 0;
    bool failed = false;
  };
  void fetched(const std::shared_ptr<Work>& work, const NodeId& from, const Fetched& result);
  void finish(const Work& work);
  void fail_restore(Work& work, const std::vector<uint32_t>& shards, const NodeId& from,
                    const Error& error);

  const NodeId self_;
  storage::Arena& arena_;
  WorkerPort& workers_;
  ReplicaPort& replicas_;
  const ReportFn report_;
  Epoch epoch_;
};

}  // namespace holdfast::daemon
