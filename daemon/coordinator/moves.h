// Failure normalization: whether healthy workers take dead lanes of other stages over, when failures
// have piled up on one (section 6 of DESIGN.md). Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/coordinator/members.h"

namespace holdfast::daemon {

struct Normalization {
  std::vector<Member> members;  // after the moves that pay, or as they were
  std::string text;             // why, for people; empty when nothing was moved
  // These would pay, but their workers hold the only copies of what the base needs: a planned change can
  // do it, for its base is in arenas. Empty: nothing.
  std::string later;
};

// Moves pay when a planned step gets shorter by 5% or more and the time saved in 100 steps is longer than
// the moved state takes at 250 MB/s; how long a step takes is not known before one was done. Without
// captures nothing is moved: what a worker gives up would be lost.
Normalization normalize(const DecideInput& input, const Holdings& holdings,
                        std::vector<Member> members, const StateVersion& base);

}  // namespace holdfast::daemon
