// Deciding a view: who takes part at which coordinate, from which base, who owns which shard and where
// each owner gets it, and who holds replicas. Pure; section 9.3 of DESIGN.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/coordinator/decide_input.h"
#include "daemon/coordinator/holdings.h"
#include "daemon/coordinator/members.h"

namespace holdfast::daemon {

struct Decision {
  View view;  // reason: why this base and these members, in one sentence
  std::vector<std::vector<SourcedShard>> owned;  // by lane
  uint64_t bytes_moved = 0;                      // fetched from other nodes
  std::vector<Moved> moved;                      // between stages
  std::string moves_later;  // why moves would pay that a planned change can make (moves.h); or empty
};

// At least as many workers are ready as there are stages (CHECK).
Decision decide(const DecideInput& input, const Holdings& holdings);

}  // namespace holdfast::daemon
