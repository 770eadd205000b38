// Brings a control request to the coordinator: on its own node directly, from others by peer
// control.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "daemon/peers/peer_caller.h"
#include "daemon/peers/peer_server.h"
#include "daemon/service/cluster_routes.h"

namespace holdfast::daemon {

class SeedRoute {
 public:
  // `connected`: whether the seed answers at the moment; a person is told at once when it does not.
  SeedRoute(PeerCaller& calls, std::string seed_address, std::function<bool()> connected)
      : calls_(calls), seed_address_(std::move(seed_address)), connected_(std::move(connected)) {}

  // On the coordinator's node: answer here, and what other nodes forward.
  void serve(CoordinatorHost& host, PeerServer& peers);
  // kPeerUnreachable, kTimeout, or what the coordinator's node answers.
  void ask(const HttpRequest& request, ControlAnswer answer);

 private:
  PeerCaller& calls_;
  const std::string seed_address_;
  const std::function<bool()> connected_;
  std::unique_ptr<ClusterRoutes> routes_;
};

}  // namespace holdfast::daemon
