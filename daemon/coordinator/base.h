// Which state a view begins with (section 9.3 of DESIGN.md). Pure.
#pragma once

#include <string>
#include <vector>

#include "daemon/coordinator/decide_input.h"
#include "daemon/coordinator/holdings.h"

namespace holdfast::daemon {

// The newest state at which every shard can be had when these are the members: from an arena, or from
// the buffer of a lane of its stage. Version 0 when there is none.
StateVersion newest_base(const DecideInput& input, const Holdings& holdings,
                         const std::vector<Member>& members);

// Every shard can be had at `state` by these members.
bool can_begin_with(const DecideInput& input, const Holdings& holdings,
                    const std::vector<Member>& members, const StateVersion& state);

struct BaseChoice {
  StateVersion state;
  std::string why;  // not the newest; empty otherwise, or begins with ", "
};
// The newest, or an older one, never older than the safe version, when running its steps again takes less
// time than bringing the newest to where it is needed.
BaseChoice choose_base(const DecideInput& input, const Holdings& holdings,
                       const std::vector<Member>& members);

}  // namespace holdfast::daemon
