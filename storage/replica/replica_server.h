// The holder's side of replication: grants blocks of the own arena to writers, publishes what they
// have written once its checksum has been verified where it lies, and tells who asks where a shard
// is.
//
// Fencing. A granted block is somebody else's to write until it is certain that he cannot. It is
// published only by a commit in an epoch that is not over, and goes back to the arena only
//   - with its commit: the writer says that every write is complete (bad and refused ones too), or
//   - when the writer released it, or asks for blocks in a newer epoch, in a newer session, or
//     without naming the attempt as open: in each case he closed his channel first, or
//   - when a view of a newer epoch opens: its members have answered from that epoch, and whoever
//     enters an epoch closes his channels first; a writer that is no member gets twice the time
//     within which he ends an attempt by himself (write_limit_ms), or
//   - with the restart of this process, whose fabric region ends with it.
// A write that was under way when its channel closed may still land a little later; such blocks
// stay allocated for quarantine_ms more. docs/replication.md says what the times rest on.
//
// Runs on the event loop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "base/ids.h"
#include "base/result.h"
#include "storage/arena/arena.h"
#include "storage/replica/executor.h"

namespace holdfast::storage {

struct ReplicaServerOptions {
  NodeId self;
  std::string fabric_address;      // of this node, for those who write and read
  int64_t quarantine_ms = 10'000;  // more than the fabric's timeout
};

class ReplicaServer {
 public:
  using Reply = std::function<void(Result<std::string>)>;

  // The arena must have been opened with a writer_may_live that is false for other nodes' blocks.
  // Arena and executor outlive the server.
  ReplicaServer(ReplicaServerOptions options, Arena& arena, Executor& executor);
  ~ReplicaServer();

  // Requests of older epochs are refused from now on (kEpochOld) and their grants not published.
  void set_epoch(Epoch epoch);
  // Takes back what was granted in older epochs: soon from the view's members, later from others.
  void view_opened(Epoch epoch, const std::set<NodeId>& members);

  // One request of a peer: one of the targets in messages.h with its JSON body. `reply` is called
  // once: kBadMessage, kEpochOld, kReplicaRefused (an attempt that is not known or over),
  // kArenaFull.
  void handle(const std::string& target, const std::string& body, Reply reply);

  // Blocks that are granted and neither published nor free.
  uint32_t granted_blocks() const;

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace holdfast::storage
