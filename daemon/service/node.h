// One node's daemon, wired together: arena and catalog, fabric and replication, workers and their
// agent, peers, the control socket, and on the seed node the coordinator. It decides nothing itself.
#pragma once

#include <memory>

#include "base/clock.h"
#include "base/result.h"
#include "conf/node_config.h"

namespace holdfast::daemon {

class Node {
 public:
  // Opens everything; when it returns, the control socket and the peer address are taken. Errors
  // are those of what could not be opened.
  static Result<std::unique_ptr<Node>> create(const conf::NodeConfig& config, Clock& clock);
  ~Node();

  // Until SIGTERM or SIGINT (success), or until the daemon cannot go on. Workers are left running.
  Status run();

 private:
  class Impl;
  explicit Node(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace holdfast::daemon
