// Brings the shards that a lane owns to its view's base: several threads verify blocks of the arena, and
// each hands what it has just verified to the trainer (promise `verified` of DESIGN.md), which copies it
// while they verify the next.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "storage/arena/arena.h"
#include "train/step/trainer.h"
#include "train/worker/messages.h"
#include "train/worker/pulse.h"

namespace holdfast::train {

// Half of the processors, and no more than memory can feed: the other workers of the node restore at
// the same time.
inline constexpr uint32_t kMostLoadingThreads = 8;
uint32_t loading_threads(uint32_t processors);

struct LoadingTarget {
  storage::ArenaMapping& arena;
  Trainer& trainer;  // with the view open
  const AbortWord& abort;
  Pulse& pulse;
  uint64_t job = 0;     // job_hash
  uint32_t slices = 1;  // P
  uint32_t threads = 1;
};

struct Loading {
  // kCommAborted: the view ended. kBlockInvalid: of the first of `bad`. Errors of the trainer.
  Status status;
  std::vector<ShardBlock> bad;  // all blocks that did not verify, as Restore names them
  uint64_t bytes = 0;           // verified or computed
};

// Returns when nothing reads the arena any more.
Loading load_shards(const Restore& restore, const LoadingTarget& target);

}  // namespace holdfast::train
