// A node's line to its seed: events in order, heartbeats when there are none. It connects again for
// as long as it lives. Every node has one, the seed too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/ids.h"
#include "base/result.h"
#include "daemon/coordinator/types.h"
#include "daemon/peers/wire.h"

namespace boost::asio {
class io_context;
}

namespace holdfast::daemon {

struct NodeLinkOptions {
  NodeId node;
  uint64_t session = 0;  // wall clock at the daemon's start, ms
  PeerIdentity identity;
  std::string seed_address;
  int64_t heartbeat_ms = 100;
  uint32_t missed_heartbeats = 5;
  size_t max_queued_events = 10'000;  // one more, and the connection counts as broken
};

struct NodeLinkCallbacks {
  // A new connection to the coordinator's process; what was queued before is gone. The owner
  // reports NodeUp with its present state before anything else.
  std::function<void()> on_connected;
  // The connection ended, or could not be made for a reason that was not told before. The link goes
  // on trying by itself.
  std::function<void(const Error&)> on_disconnected;
};

class NodeLink {
 public:
  NodeLink(boost::asio::io_context& io, NodeLinkOptions options, NodeLinkCallbacks callbacks);
  ~NodeLink();  // nothing is called back any more

  void start();
  // Node and session are filled in. Dropped while not connected: NodeUp will tell the outcome.
  void report(NodeEvent event);

  bool connected() const;
  uint64_t coordinator_session() const;  // of the newest connection; 0 before the first

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace holdfast::daemon
