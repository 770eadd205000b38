// What the job agent acts through. Everything is called on, and calls back on, the daemon's event loop.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "daemon/coordinator/types.h"
#include "daemon/node/node_job.h"
#include "train/worker/messages.h"

namespace holdfast::daemon {

class WorkerPort {
 public:
  virtual ~WorkerPort() = default;
  virtual void ensure(uint32_t slot) = 0;  // start it, and again after it ends, until stop
  virtual void send(uint32_t slot, const train::ToWorker& message) = 0;
  virtual void kill(uint32_t slot, const std::string& why) = 0;  // and reap; down is called after
  virtual void stop(uint32_t slot) = 0;                          // asked to exit, then killed
};

struct Replicated {
  NodeId holder;
  Status status;
};
struct Fetched {
  std::vector<train::ShardBlock> blocks;  // verified and published in the own arena
  std::vector<uint32_t> failed;           // shards
  Error error;                            // of the first that failed
};

class ReplicaPort {
 public:
  virtual ~ReplicaPort() = default;
  // Ends everything of older epochs, and refuses grants to writers that live in one.
  virtual void set_epoch(Epoch epoch) = 0;
  // A view opens: where the nodes are that are up, and which of them are its members.
  virtual void open_view(const View& view, const std::vector<NodeAddress>& nodes) = 0;
  virtual void replicate(Epoch epoch, uint64_t job, const StateVersion& state,
                         const std::vector<train::ShardBlock>& blocks,
                         const std::vector<NodeId>& holders,
                         std::function<void(std::vector<Replicated>)> done) = 0;
  virtual void fetch(Epoch epoch, const NodeJob& job, const StateVersion& state,
                     const std::vector<uint32_t>& shards, const NodeId& from,
                     std::function<void(Fetched)> done) = 0;
};

class LoopPort {
 public:
  virtual ~LoopPort() = default;
  virtual void after_ms(int64_t ms, std::function<void()> action) = 0;
  // Runs `work` on a helper thread, then `done` on the event loop.
  virtual void aside(std::function<void()> work, std::function<void()> done) = 0;
  virtual size_t helpers() const = 0;  // how many works are done at the same time
};

using ReportFn = std::function<void(NodeEvent)>;  // to the coordinator, in order

}  // namespace holdfast::daemon
