// The bodies of the control API, shared by the daemon that writes them and the client that reads them.
// docs/control-api.md describes each; members are only ever added.
#pragma once

#include <boost/describe.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/json.h"
#include "daemon/coordinator/types.h"

namespace holdfast::daemon::api {

struct ArenaStatus {
  std::string path;
  uint64_t size_bytes = 0;
  uint64_t used_bytes = 0;
  uint32_t blocks = 0;
};
BOOST_DESCRIBE_STRUCT(ArenaStatus, (), (path, size_bytes, used_bytes, blocks))

struct WorkerStatus {
  uint32_t slot = 0;
  int64_t pid = 0;
  std::string phase;
  Step step;
};
BOOST_DESCRIBE_STRUCT(WorkerStatus, (), (slot, pid, phase, step))

// What one daemon knows of itself.
struct LocalStatus {
  NodeId node;
  std::string release;
  std::string cluster;
  bool seed = false;
  bool coordinator_reachable = false;
  Epoch epoch;
  ArenaStatus arena;
  std::vector<WorkerStatus> workers;
};
BOOST_DESCRIBE_STRUCT(LocalStatus, (),
                      (node, release, cluster, seed, coordinator_reachable, epoch, arena, workers))

struct JobSummary {
  JobId name;
  std::string state;
  std::string detail;
  uint64_t step = 0;   // steps done
  uint64_t steps = 0;  // wanted
  uint32_t lanes = 0;  // live
  uint32_t pipelines = 0;
  uint32_t stages = 1;
  StateVersion safe;
  std::optional<double> train_loss;
  std::optional<double> held_out_loss;
  std::optional<double> tokens_per_second;
  std::optional<double> step_seconds;
};
BOOST_DESCRIBE_STRUCT(JobSummary, (),
                      (name, state, detail, step, steps, lanes, pipelines, stages, safe, train_loss,
                       held_out_loss, tokens_per_second, step_seconds))

// GET /v1/status. The cluster part is absent while the coordinator cannot be reached.
struct Status {
  LocalStatus local;
  uint32_t nodes_up = 0;
  uint32_t nodes_known = 0;
  std::string phase;
  std::optional<JobSummary> job;  // the running one, or the last
};
BOOST_DESCRIBE_STRUCT(Status, (), (local, nodes_up, nodes_known, phase, job))

// GET /v1/nodes
struct Node {
  NodeId node;
  std::string state;  // up, suspected, down
  std::string failure_domain;
  std::string peer_address;
  uint64_t arena_bytes = 0;
  std::optional<uint32_t> lane;
  std::optional<Coordinate> coordinate;
  std::string worker;  // phase of its worker, or "none"
  uint32_t shards_owned = 0;
  std::vector<NodeId> holders;
};
BOOST_DESCRIBE_STRUCT(Node, (),
                      (node, state, failure_domain, peer_address, arena_bytes, lane, coordinate,
                       worker, shards_owned, holders))

// GET /v1/snapshots: what this node's arena holds, by state.
struct Snapshot {
  StateVersion state;
  bool safe = false;
  uint32_t own_shards = 0;      // captured by this node's worker
  uint32_t replica_shards = 0;  // held for others
  uint64_t bytes = 0;
};
BOOST_DESCRIBE_STRUCT(Snapshot, (), (state, safe, own_shards, replica_shards, bytes))
struct Snapshots {
  NodeId node;
  std::string job;
  StateVersion safe;  // of the cluster
  std::vector<Snapshot> snapshots;
};
BOOST_DESCRIBE_STRUCT(Snapshots, (), (node, job, safe, snapshots))

// GET /v1/snapshots/{key}/shards: what a node's arena holds of one state; blocks are not verified.
struct HeldShardList {
  NodeId node;
  StateVersion state;
  bool held = false;  // it stays there while it is read
  std::vector<ShardId> shards;
};
BOOST_DESCRIBE_STRUCT(HeldShardList, (), (node, state, held, shards))

// GET /v1/snapshots/{key}/shards/{group}/{slice}: a range of one block's payload, whose checksum was
// verified just before. At most kMaxShardRangeBytes.
inline constexpr uint64_t kMaxShardRangeBytes = uint64_t{8} << 20;
struct ShardRange {
  NodeId node;
  ShardId shard;
  StateVersion state;
  uint64_t payload_bytes = 0;  // of the whole block
  uint64_t offset = 0;
  uint64_t checksum = 0;  // checksum64 of the range
  std::string data;       // base64
};
BOOST_DESCRIBE_STRUCT(ShardRange, (), (node, shard, state, payload_bytes, offset, checksum, data))

// GET /v1/jobs/{name}/steps: one finished step of the current history (newest recomputation wins).
struct StepRow {
  Step step;
  Epoch made;
  uint32_t lanes = 0;
  double loss = 0;
  double learning_rate = 0;
  double gradient_norm = 0;
  double seconds = 0;
  uint64_t tokens = 0;
  uint64_t tokens_dropped = 0;  // choices beyond capacity
  std::optional<double> held_out_loss;
  double stall_seconds = 0;  // the longest that an update waited for a capture, of `seconds`
};
BOOST_DESCRIBE_STRUCT(StepRow, (),
                      (step, made, lanes, loss, learning_rate, gradient_norm, seconds, tokens,
                       tokens_dropped, held_out_loss, stall_seconds))

struct Accepted {
  JobId job;
  std::string text;
};
BOOST_DESCRIBE_STRUCT(Accepted, (), (job, text))

}  // namespace holdfast::daemon::api
