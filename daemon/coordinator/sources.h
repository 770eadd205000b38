// Where an owner takes a shard from. Pure.
#pragma once

#include "daemon/coordinator/decide_input.h"
#include "daemon/coordinator/holdings.h"

namespace holdfast::daemon {

// Its buffer, its node's arena, or a replica; of several replicas by turns, so that the load spreads. A
// source from which a fetch has failed of late only when there is no other. `copies`: of the shard at the
// base, nullptr: none, it is computed.
SourcedShard source_of(const DecideInput& input, uint32_t shard, const Copies* copies,
                       const Member& member);

}  // namespace holdfast::daemon
