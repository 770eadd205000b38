// Who owns which shard in a view. Pure; section 9.3 of DESIGN.md.
#pragma once

#include <cstdint>
#include <vector>

#include "daemon/coordinator/decide_input.h"
#include "daemon/coordinator/holdings.h"

namespace holdfast::daemon {

struct Owners {
  std::vector<uint32_t> lane;   // by shard
  std::vector<uint64_t> bytes;  // by lane
};

// Lanes of the shard's stage only. The lane at the shard's home pipeline, (shard mod P) mod D, owns it; an
// orphan goes to the least loaded lane that has it already, or to the least loaded lane when those are
// overloaded. Every shard can be had at `base` by these members (CHECK).
Owners choose_owners(const DecideInput& input, const Holdings& holdings, const StateVersion& base,
                     const std::vector<Member>& members);

}  // namespace holdfast::daemon
