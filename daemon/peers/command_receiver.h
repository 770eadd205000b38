// The node's end of the commands: takes them from the newest coordinator only, each once and in
// order.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/ids.h"
#include "base/result.h"
#include "daemon/coordinator/types.h"
#include "daemon/peers/peer_server.h"

namespace holdfast::daemon {

class CommandReceiver {
 public:
  using Handler = std::function<void(const NodeCommand&)>;

  CommandReceiver(NodeId node, uint64_t session, Handler handler);

  // Serves kCommandsTarget; the receiver outlives the server's last request.
  void attach(PeerServer& server);

  // All commands of a request are handled, or none: kEpochOld for another life of this node, an
  // older coordinator or an overtaken request, kBadMessage for another node or what cannot be read.
  Result<std::string> receive(const std::string& body);

 private:
  const NodeId node_;
  const uint64_t session_;
  const Handler handler_;
  uint64_t coordinator_session_ = 0;  // the newest seen
  uint64_t last_sequence_ = 0;
};

}  // namespace holdfast::daemon
