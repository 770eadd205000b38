// What a view that was decided will take and bring: who runs what, which shards move, seconds to its first
// step, and its pace beside the last one's. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "daemon/coordinator/decide_input.h"
#include "daemon/coordinator/foretold.h"
#include "daemon/coordinator/measured.h"

namespace holdfast::daemon {

// Taken for granted where nothing was measured; named in the answer.
struct Assumed {
  double noticed_seconds = 0.3;   // the longest wait for the cause of a broken collective
  double quiesce_seconds = 0.5;
  double restore_seconds = 0.5;   // beside the bytes
  double connect_seconds = 1.0;
  double fetch_bytes_per_second = 1e9;
  double load_bytes_per_second = 10e9;
};

struct ViewAhead {
  const conf::JobConfig& job;
  const JobShards& shards;
  const View& before;
  const View& after;
  const std::vector<std::vector<SourcedShard>>& owned;  // by lane of `after`
  uint64_t steps_twice = 0;
};

Prediction predict(const ViewAhead& ahead, const Measured& measured, const Assumed& assumed);

// Of the node that has most of each: it is waited for.
struct RestoreLoad {
  uint64_t moved_bytes = 0;    // fetched from other nodes, in all
  uint64_t fetched_bytes = 0;  // of the node that fetches or gives most
  uint64_t loaded_bytes = 0;   // of the node that checks and loads most of its arena
};
RestoreLoad load_of(const JobShards& shards, const View& view,
                    const std::vector<std::vector<SourcedShard>>& owned);

}  // namespace holdfast::daemon
