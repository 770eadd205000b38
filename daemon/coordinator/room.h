// Whether a node's arena is large enough for its part of a job. Pure.
#pragma once

#include "base/result.h"
#include "conf/job_config.h"
#include "daemon/coordinator/coordinator.h"
#include "daemon/coordinator/decide_input.h"

namespace holdfast::daemon {

// Whatever stages the node's workers are of. kArenaTooSmall says how many bytes are needed and for what.
Status check_room(const conf::JobConfig& config, const JobShards& shards, const NodeStatus& node);

}  // namespace holdfast::daemon
