// Which nodes hold the replicas of what a node captures. Pure and deterministic: the same nodes in
// any order give the same holders.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"

namespace holdfast::storage {

struct HolderNode {
  NodeId id;
  std::string failure_domain;
  uint64_t arena_bytes = 0;
  uint64_t load_bytes = 0;  // of its arena that is spoken for: own captures and replicas held
  std::set<StageIndex> stages = {};  // of its workers: a node of the owner's adopts orphans locally
};

struct HolderChoice {
  std::vector<NodeId> holders;  // best first, each in a failure domain of its own
  std::string reason;           // empty when there are as many as were wanted
};

// At most `replicas` holders for `bytes` captured by `owner`, in different failure domains other
// than the owner's. Nodes with a worker of one of the owner's stages first, then the least loaded, then
// the next in the ring of node names after the owner. A node without room for `bytes` is passed over. Fewer when
// there are fewer such domains, with the reason.
HolderChoice choose_holders(const NodeId& owner, uint64_t bytes, uint32_t replicas,
                            std::span<const HolderNode> nodes);

struct Captures {
  NodeId owner;
  uint64_t bytes = 0;  // in the arena, of all versions kept
};

// choose_holders for every owner, in the order of their names, each choice counting as load for the
// next: so replicas spread evenly over the nodes. Every owner comes once, with the sum of what its
// workers capture.
std::map<NodeId, HolderChoice> assign_holders(std::vector<Captures> owners, uint32_t replicas,
                                              std::vector<HolderNode> nodes);

}  // namespace holdfast::storage
