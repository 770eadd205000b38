// Which published blocks of an arena may go. Pure. An arena keeps the safe state and everything
// newer that training may still come back to; all else is room for the next capture.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "storage/arena/arena.h"
#include "storage/replica/history.h"

namespace holdfast::storage {

// What a node knows about one job when the watermark moves.
struct Watermark {
  uint64_t job = 0;                // BlockHeader::job
  StateVersion safe;               // the newest safe state; version 0: nothing is safe but the seed
  std::vector<Version> abandoned;  // captures that were given up: no state of them will be safe
  std::vector<ViewBase> history;
};

// True if a block that holds `state` may be freed:
//   void       the history left the line that made it;
//   older      its version is below the safe version;
//   abandoned  its version is above the safe version and was given up.
// The safe state itself never goes, nor another state of the safe version that is not void. If the
// history says that the safe state itself is void, the watermark is a late one from a line that was
// left: then only void states go.
bool may_free(const StateVersion& state, const Watermark& watermark);

// The published blocks of the watermark's job that may go, in the order given. Blocks that are only
// allocated belong to their writer and are never named; nor are blocks of other jobs.
std::vector<BlockInfo> blocks_to_free(std::span<const BlockInfo> blocks,
                                      const Watermark& watermark);

}  // namespace holdfast::storage
