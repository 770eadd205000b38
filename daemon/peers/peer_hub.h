// The coordinator's side of peer control, on the seed node: takes events from every node in order,
// notices nodes that are gone, and sends commands in order. Everything runs on the daemon's event
// loop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "daemon/coordinator/types.h"
#include "daemon/peers/peer_server.h"

namespace holdfast::daemon {

struct PeerHubOptions {
  NodeId node;           // the seed
  uint64_t session = 0;  // of its daemon: the coordinator_session
  PeerIdentity identity;
  int64_t heartbeat_ms = 100;
  uint32_t missed_heartbeats = 5;
  size_t max_queued_commands = 10'000;  // for one node; one more, and it counts as down
};

struct PeerHubCallbacks {
  // Events of one connection come in order, NodeUp first, with the node and session they came from.
  std::function<void(const NodeEvent&)> on_event;
  // Once for every connection that brought NodeUp, before the NodeUp of the next one: it ended, the
  // node was silent, or commands could not be brought to it. Never called from within send.
  std::function<void(const NodeDown&)> on_down;
};

class PeerHub {
 public:
  // Serves kEventsTarget of `server`. Server and clock outlive the hub.
  PeerHub(boost::asio::io_context& io, const Clock& clock, PeerServer& server,
          PeerHubOptions options, PeerHubCallbacks callbacks);
  ~PeerHub();  // nothing is called back any more; requests are answered with kNotCoordinator

  void start();  // the detector
  // Dropped when the node is not connected: its NodeDown was told, and NodeUp will come first.
  void send(const NodeId& node, const NodeCommand& command);
  bool is_connected(const NodeId& node) const;  // greeted and NodeUp came

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace holdfast::daemon
