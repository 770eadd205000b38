// Deciding a view: who takes part at which coordinate, from which base, who owns which shard and where
// each owner gets it, and who holds replicas. Pure; section 9.3 of DESIGN.md.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daemon/coordinator/holdings.h"
#include "daemon/coordinator/types.h"

namespace holdfast::daemon {

struct NodePlace {
  NodeId node;
  std::string failure_domain;
  uint64_t arena_bytes = 0;
};

struct DecideInput {
  Epoch epoch;
  JobId job;
  uint32_t pipelines = 1;  // D: members wanted at most
  uint32_t slices = 1;     // P
  uint32_t replicas = 0;   // r
  std::vector<uint64_t> shard_bytes;     // by flat shard
  std::vector<storage::ViewBase> history;
  std::vector<Member> previous;          // of the last view: survivors keep their coordinates
  std::vector<WorkerId> workers;         // ready to take part
  std::vector<NodePlace> nodes;          // up: may hold replicas
  // (fetcher, source): a fetch failed there of late. Another source, or another owner, is preferred.
  std::set<std::pair<NodeId, NodeId>> unreached;
};

struct Decision {
  View view;  // reason: why this base and these members, in one sentence
  std::vector<std::vector<SourcedShard>> owned;  // by lane
  uint64_t bytes_moved = 0;                      // fetched from other nodes
};

// Members: survivors of the last view first, then by name, at most D; survivors keep their coordinate,
// others take the lowest free one.
std::vector<Member> choose_members(const DecideInput& input);

// At least one worker is ready (CHECK).
Decision decide(const DecideInput& input, const Holdings& holdings);

}  // namespace holdfast::daemon
