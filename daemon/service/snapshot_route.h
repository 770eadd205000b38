// Serves what nodes hold of a job's state, shard by shard, to whoever asks this daemon: from its own
// arena, or brought from the node that is named. docs/control-api.md describes paths and bodies. On
// the event loop; bytes are read and summed aside.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "daemon/node/arena_holds.h"
#include "daemon/node/ports.h"
#include "daemon/peers/peer_caller.h"
#include "daemon/peers/peer_server.h"
#include "daemon/service/cluster_routes.h"
#include "daemon/service/shard_reading.h"

namespace holdfast::daemon {

struct SnapshotRoutePorts {
  NodeId self;
  storage::Arena& arena;
  ArenaHolds& holds;
  LoopPort& loop;
  PeerCaller& calls;  // its own: ranges are long, and hold nothing else up
  std::function<void(const HttpRequest&, ControlAnswer)> cluster;  // asks the coordinator's node
};

class SnapshotRoute {
 public:
  explicit SnapshotRoute(SnapshotRoutePorts ports) : ports_(std::move(ports)) {}

  // What other nodes bring to their clients from here.
  void serve(PeerServer& peers);
  // GET below /v1/snapshots/. kUsage, kBlockMissing, kBlockInvalid, kNotFound for a node that is not
  // known, kPeerUnreachable, kTimeout; kQueueFull when too many are under way.
  void handle(const HttpRequest& request, ControlAnswer answer);

 private:
  void answer_here(const ShardQuery& query, ControlAnswer answer);
  void forward(const HttpRequest& request, const NodeId& node, ControlAnswer answer);
  void call(const std::string& address, const HttpRequest& request, const NodeId& node,
            ControlAnswer answer);

  SnapshotRoutePorts ports_;
  std::map<NodeId, std::string> addresses_;  // of peer control, as the coordinator told
  uint32_t reading_ = 0;
};

}  // namespace holdfast::daemon
