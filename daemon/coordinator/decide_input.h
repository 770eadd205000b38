// What a view is decided from.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "conf/job_config.h"
#include "daemon/coordinator/types.h"
#include "storage/replica/history.h"

namespace holdfast::daemon {

struct NodePlace {
  NodeId node;
  std::string failure_domain;
  uint64_t arena_bytes = 0;
};

// By flat shard.
struct JobShards {
  std::vector<uint64_t> bytes;
  std::vector<StageIndex> stage;  // whose lanes may own it
};

// Of the job's layout and the split of its layers.
JobShards shards_of_job(const conf::JobConfig& job);

struct DecideInput {
  Epoch epoch;
  conf::JobConfig job;
  uint32_t replicas = 0;                 // r; none without snapshots
  JobShards shards;
  StateVersion safe;
  std::vector<storage::ViewBase> history;
  std::vector<Member> previous;          // of the last view: survivors keep their coordinates
  std::vector<WorkerId> workers;         // ready to take part
  std::vector<NodePlace> nodes;          // up: may hold replicas
  double step_seconds = 0;               // of late; 0: not known
  // What a node brings from others, and what it checks and loads of its arena.
  double fetch_bytes_per_second = 1e9;
  double load_bytes_per_second = 10e9;
  // (fetcher, source): a fetch failed there of late. Another source, or another owner, is preferred.
  std::set<std::pair<NodeId, NodeId>> unreached;
  bool test_ignore_stage = false;        // see CoordinatorOptions
};

}  // namespace holdfast::daemon
