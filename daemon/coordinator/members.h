// Who takes part in a view, and at which coordinate. Pure; section 9.3 of DESIGN.md.
#pragma once

#include <string>
#include <vector>

#include "daemon/coordinator/decide_input.h"
#include "daemon/coordinator/holdings.h"
#include "train/schedule/job_plan.h"

namespace holdfast::daemon {

// A worker that lives and takes another place than it had in the last view.
struct Moved {
  WorkerId worker;
  Coordinate from;
  Coordinate to;
};

// Survivors of the last view keep their coordinate. Others, by name, take the lowest free place of the
// stage that lacks most lanes, while there are places. A stage that is left without a lane gets one of
// those with the most lanes, the worker that has most of the stage's state at hand. Holders are not
// chosen. At least as many workers are ready as there are stages (CHECK).
std::vector<Member> choose_members(const DecideInput& input, const Holdings& holdings);

// The same members with the worker at `from` at `to`, which is free.
std::vector<Member> with_move(std::vector<Member> members, Coordinate from, Coordinate to);
// Of the last view's members.
std::vector<Moved> moves_of(const DecideInput& input, const std::vector<Member>& members);

// By stage, the pipelines of its lanes, ascending.
train::LanesByStage lanes_by_stage(const std::vector<Member>& members, uint32_t stages);

// Bytes of the stage's shards that the worker has neither in its buffers nor in its node's arena.
uint64_t bytes_to_fetch(const DecideInput& input, const Holdings& holdings, const StateVersion& state,
                        const WorkerId& worker, StageIndex stage);

// What became of the last view's members and of the stages that lack lanes, for people; empty when
// nothing did, else it begins with "; ". `gain`: what moves are for, if they need not be.
std::string membership_text(const DecideInput& input, const std::vector<Member>& members,
                            const std::string& gain = "");

}  // namespace holdfast::daemon
