// The coordinator's end of the commands for one life of one node: sent in order, one request at a
// time. Private to daemon/peers.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "daemon/http/client.h"
#include "daemon/peers/batch_queue.h"

namespace holdfast::daemon {

struct CommandTarget {
  NodeId node;
  uint64_t session = 0;
  std::string address;  // host:port of its peer control
};

class CommandChannel {
 public:
  // `sequence` numbers the requests of all channels of this coordinator and outlives them. `failed`
  // is told once, never from within send, and may destroy the channel; nothing is sent after it.
  CommandChannel(boost::asio::io_context& io, PeerIdentity identity, CommandTarget target,
                 uint64_t coordinator_session, uint64_t& sequence, size_t max_queued,
                 int64_t timeout_ms, std::function<void(const Error&)> failed);

  // kQueueFull: the node takes its commands too slowly; the owner gives it up.
  Status send(const boost::json::value& command);

 private:
  void pump();

  const PeerIdentity identity_;
  const CommandTarget target_;
  const uint64_t coordinator_session_;
  uint64_t& sequence_;
  const int64_t timeout_ms_;
  const std::function<void(const Error&)> failed_;
  BatchQueue queue_;
  bool outstanding_ = false;
  bool broken_ = false;
  HttpClient client_;
};

}  // namespace holdfast::daemon
