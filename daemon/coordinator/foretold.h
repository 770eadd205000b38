// What would follow if some nodes died now: plain values, the body of GET /v1/what-if
// (docs/control-api.md). Members are only ever added.
#pragma once

#include <boost/describe.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "daemon/coordinator/types.h"

namespace holdfast::daemon {

struct LostWorker {
  WorkerId worker;
  Coordinate coordinate;
};
BOOST_DESCRIBE_STRUCT(LostWorker, (), (worker, coordinate))

// A lane of the view that would follow, and what it runs in a step.
struct LaneRoute {
  WorkerId worker;
  Coordinate coordinate;
  uint32_t micro_batches_before = 0;  // 0: it had no part, or another place
  uint32_t micro_batches_after = 0;
};
BOOST_DESCRIBE_STRUCT(LaneRoute, (), (worker, coordinate, micro_batches_before, micro_batches_after))

struct LaneMove {
  WorkerId worker;
  Coordinate from;
  Coordinate to;
};
BOOST_DESCRIBE_STRUCT(LaneMove, (), (worker, from, to))

// Shards that get another owner, or that their owner must fetch.
struct ShardTransfer {
  NodeId to;           // the new owner's node
  std::string source;  // "replica", "arena" or "buffer" (its own), "initial"
  NodeId from;         // whose arena; `to` itself unless source is "replica"
  uint32_t shards = 0;
  uint64_t bytes = 0;
};
BOOST_DESCRIBE_STRUCT(ShardTransfer, (), (to, source, from, shards, bytes))

// A time, and where the figure comes from: measured here, or assumed.
struct Duration {
  std::optional<double> seconds;  // not known without one
  bool measured = false;
  std::string from;
};
BOOST_DESCRIBE_STRUCT(Duration, (), (seconds, measured, from))

// From the first sign of the failure to the end of the first step after it.
struct RecoveryTime {
  Duration noticed;     // to the end of the view
  Duration quiesce;     // survivors stop, tell what they hold; the decision
  Duration restore;     // shards fetched, verified and loaded
  Duration connect;     // communicators, and weights made of shards
  Duration first_step;
  double total = 0;     // of those that are known
};
BOOST_DESCRIBE_STRUCT(RecoveryTime, (), (noticed, quiesce, restore, connect, first_step, total))

struct Pace {
  std::optional<double> step_seconds_before;  // measured in the view that ends
  std::optional<double> step_seconds_after;   // that, times the plans' ratio
  double plan_before = 0;                     // periods of the plans
  double plan_after = 0;
  std::string plan_unit;                      // "F of a layer"; of a [synthetic] job "ms"
  std::optional<double> tokens_per_second_before;
  std::optional<double> tokens_per_second_after;
  double throughput_ratio = 1;                // after by before
};
BOOST_DESCRIBE_STRUCT(Pace, (),
                      (step_seconds_before, step_seconds_after, plan_before, plan_after,
                       plan_unit, tokens_per_second_before, tokens_per_second_after, throughput_ratio))

// The view that would follow.
struct Prediction {
  StateVersion base;
  uint64_t steps_twice = 0;  // finished steps that are done again
  uint32_t pipelines = 0;    // lanes of the stage that has fewest
  std::vector<LaneRoute> lanes;  // of stages whose lanes change; by lane
  std::vector<LaneMove> moves;   // between stages
  uint32_t orphan_shards = 0;    // their owner is gone, or moves
  uint64_t orphan_bytes = 0;
  uint64_t bytes_moved = 0;      // fetched from other nodes
  std::vector<ShardTransfer> transfers;
  std::vector<WorkerId> workers;     // by lane
  std::vector<uint32_t> owner_lane;  // by flat shard
  RecoveryTime recovery;
  Pace pace;
  std::string reason;                // as the view's would be
};
BOOST_DESCRIBE_STRUCT(Prediction, (),
                      (base, steps_twice, pipelines, lanes, moves, orphan_shards, orphan_bytes,
                       bytes_moved, transfers, workers, owner_lane, recovery, pace, reason))

struct WhatIf {
  std::vector<NodeId> failed;
  JobId job;
  Epoch epoch;
  Version version;      // newest made
  StateVersion safe;
  std::string outcome;  // "unaffected", "continues", "waits", "fails" or "stops"
  std::string text;     // one sentence
  std::vector<LostWorker> lost;
  std::vector<uint32_t> lost_stages;     // that would have no lane left of those they have
  std::optional<Prediction> prediction;  // of the view that follows, when one does
  std::vector<std::string> assumptions;  // what else was taken for granted
};
BOOST_DESCRIBE_STRUCT(WhatIf, (),
                      (failed, job, epoch, version, safe, outcome, text, lost, lost_stages,
                       prediction, assumptions))

}  // namespace holdfast::daemon
