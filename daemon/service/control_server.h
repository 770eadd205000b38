// The control socket: HTTP and JSON for people and programs on this machine. What concerns this node
// is answered here, the rest by the coordinator's node. docs/control-api.md describes each path.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <filesystem>
#include <functional>
#include <memory>

#include "daemon/http/server.h"
#include "daemon/service/cluster_routes.h"

namespace holdfast::daemon {

struct ControlServerPorts {
  boost::asio::io_context& io;
  std::function<api::LocalStatus()> local_status;
  std::function<api::Snapshots()> snapshots;
  std::function<std::string()> metrics;
  std::filesystem::path log_folder;  // worker-<slot>.log
  uint32_t slots = 1;
  // Asks the coordinator's node; kPeerUnreachable when it cannot be reached.
  std::function<void(const HttpRequest&, ControlAnswer)> cluster;
  // Everything below /v1/snapshots/.
  std::function<void(const HttpRequest&, ControlAnswer)> shards = {};
};

class ControlServer {
 public:
  // Errors: see listen_unix.
  static Result<std::unique_ptr<ControlServer>> listen(const std::filesystem::path& socket,
                                                       ControlServerPorts ports);
  ~ControlServer();

 private:
  class Impl;
  explicit ControlServer(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace holdfast::daemon
