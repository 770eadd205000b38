#include "storage/replica/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "base/check.h"

namespace holdfast::storage {
namespace {

bool has_room(const HolderNode& node, uint64_t bytes) {
  return node.load_bytes <= node.arena_bytes && bytes <= node.arena_bytes - node.load_bytes;
}

bool shares_a_stage(const HolderNode& node, const std::set<StageIndex>& stages) {
  return std::any_of(stages.begin(), stages.end(),
                     [&](StageIndex stage) { return node.stages.contains(stage); });
}

// Best first. In the ring of names, those after the owner come before those that wrap around.
bool better(const HolderNode& a, const HolderNode& b, const NodeId& owner,
            const std::set<StageIndex>& stages) {
  const auto rank = [&](const HolderNode& n) {
    return std::tuple(!shares_a_stage(n, stages), n.load_bytes, n.id < owner, n.id);
  };
  return rank(a) < rank(b);
}

std::string shortage(size_t found, uint32_t replicas, size_t domains, size_t full) {
  std::string reason = fmt::format("{} of {} replicas: {} failure domains beside the owner's",
                                   found, replicas, domains);
  if (full > 0) reason += fmt::format(", {} nodes without room", full);
  return reason;
}

}  // namespace

HolderChoice choose_holders(const NodeId& owner, uint64_t bytes, uint32_t replicas,
                            std::span<const HolderNode> nodes) {
  const auto self =
      std::find_if(nodes.begin(), nodes.end(), [&](const HolderNode& n) { return n.id == owner; });
  const std::set<StageIndex> stages = self == nodes.end() ? std::set<StageIndex>{} : self->stages;
  std::set<std::string> domains;
  std::vector<const HolderNode*> candidates;
  size_t full = 0;
  for (const HolderNode& node : nodes) {
    if (node.id == owner) continue;
    if (self != nodes.end() && node.failure_domain == self->failure_domain) continue;
    domains.insert(node.failure_domain);
    if (has_room(node, bytes)) {
      candidates.push_back(&node);
    } else {
      ++full;
    }
  }
  std::sort(candidates.begin(), candidates.end(),
            [&](const HolderNode* a, const HolderNode* b) { return better(*a, *b, owner, stages); });

  HolderChoice choice;
  std::set<std::string> taken;
  for (const HolderNode* node : candidates) {
    if (choice.holders.size() == replicas) break;
    if (taken.insert(node->failure_domain).second) choice.holders.push_back(node->id);
  }
  if (choice.holders.size() < replicas)
    choice.reason = shortage(choice.holders.size(), replicas, domains.size(), full);
  return choice;
}

std::map<NodeId, HolderChoice> assign_holders(std::vector<Captures> owners, uint32_t replicas,
                                              std::vector<HolderNode> nodes) {
  std::sort(owners.begin(), owners.end(),
            [](const Captures& a, const Captures& b) { return a.owner < b.owner; });
  std::map<NodeId, HolderChoice> choices;
  for (const Captures& captures : owners) {
    HolderChoice choice = choose_holders(captures.owner, captures.bytes, replicas, nodes);
    for (HolderNode& node : nodes) {
      if (std::find(choice.holders.begin(), choice.holders.end(), node.id) != choice.holders.end())
        node.load_bytes += captures.bytes;
    }
    const bool first = choices.emplace(captures.owner, std::move(choice)).second;
    CHECK(first, "an owner's captures are one sum, of all its workers");
  }
  return choices;
}

}  // namespace holdfast::storage
