// What a daemon tells about its own node: status, snapshots, metrics.
#pragma once

#include <string>

#include "conf/node_config.h"
#include "daemon/control/api.h"
#include "daemon/node/job_agent.h"
#include "daemon/peers/node_link.h"
#include "daemon/service/coordinator_host.h"
#include "daemon/supervisor/supervisor.h"
#include "storage/arena/arena.h"

namespace holdfast::daemon {

struct LocalView {
  const conf::NodeConfig& config;
  storage::Arena& arena;
  const Supervisor& supervisor;
  const JobAgent& agent;
  const NodeLink& link;
};

api::LocalStatus local_status(const LocalView& view);
// What the arena holds of the present job; blocks are counted, not verified.
api::Snapshots local_snapshots(const LocalView& view);
// Prometheus text; `coordinator` is nullptr where it does not run.
std::string local_metrics(const LocalView& view, const CoordinatorHost* coordinator);

}  // namespace holdfast::daemon
