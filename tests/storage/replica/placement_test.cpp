#include "storage/replica/placement.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

namespace holdfast::storage {
namespace {

constexpr uint64_t kRoom = 1'000'000;

HolderNode node(const std::string& name, const std::string& domain, uint64_t load = 0,
                std::set<StageIndex> stages = {StageIndex(0)}) {
  return {NodeId(name), domain, kRoom, load, std::move(stages)};
}
std::vector<NodeId> ids(std::initializer_list<const char*> names) {
  std::vector<NodeId> out;
  for (const char* name : names) out.emplace_back(name);
  return out;
}

TEST(Placement, TheNextInTheRing) {
  const std::vector<HolderNode> nodes = {node("a", "A"), node("b", "B"), node("c", "C")};
  EXPECT_EQ(choose_holders(NodeId("a"), 1, 1, nodes).holders, ids({"b"}));
  EXPECT_EQ(choose_holders(NodeId("c"), 1, 1, nodes).holders, ids({"a"}));
  EXPECT_EQ(choose_holders(NodeId("b"), 1, 2, nodes).holders, ids({"c", "a"}));
}

TEST(Placement, NeverInTheOwnersDomainNorTwiceInOne) {
  const std::vector<HolderNode> nodes = {node("a", "A"), node("b", "A"), node("c", "C"),
                                         node("d", "C")};
  const HolderChoice choice = choose_holders(NodeId("a"), 1, 2, nodes);
  EXPECT_EQ(choice.holders, ids({"c"}));
  EXPECT_EQ(choice.reason, "1 of 2 replicas: 1 failure domains beside the owner's");
}

TEST(Placement, PrefersItsStagesThenTheLeastLoaded) {
  EXPECT_EQ(choose_holders(NodeId("a"), 1, 1,
                           std::vector{node("a", "A"), node("b", "B", 0, {}), node("c", "C", 9)})
                .holders,
            ids({"c"}));
  EXPECT_EQ(choose_holders(NodeId("a"), 1, 1,
                           std::vector{node("a", "A"), node("b", "B", 5), node("c", "C", 4)})
                .holders,
            ids({"c"}));
  const StageIndex first(0), second(1), third(2);
  const std::vector<HolderNode> staged = {node("a", "A", 0, {first, second}),
                                          node("b", "B", 0, {third}), node("c", "C", 9, {second}),
                                          node("d", "D", 9, {third})};
  EXPECT_EQ(choose_holders(NodeId("a"), 1, 2, staged).holders, ids({"c", "b"}));
  EXPECT_EQ(choose_holders(NodeId("b"), 1, 2, staged).holders, ids({"d", "a"}));
}

TEST(Placement, PassesOverNodesWithoutRoom) {
  const std::vector<HolderNode> nodes = {node("a", "A"), node("b", "B", kRoom - 10),
                                         node("c", "C")};
  EXPECT_EQ(choose_holders(NodeId("a"), 11, 2, nodes).holders, ids({"c"}));
  EXPECT_EQ(choose_holders(NodeId("a"), 11, 2, nodes).reason,
            "1 of 2 replicas: 2 failure domains beside the owner's, 1 nodes without room");
  EXPECT_EQ(choose_holders(NodeId("a"), 10, 2, nodes).holders, ids({"c", "b"}));
}

TEST(Placement, AloneThereIsNobody) {
  const HolderChoice choice = choose_holders(NodeId("a"), 1, 1, std::vector{node("a", "A")});
  EXPECT_TRUE(choice.holders.empty());
  EXPECT_EQ(choice.reason, "0 of 1 replicas: 0 failure domains beside the owner's");
}

TEST(Placement, WantingNoReplicasIsNoShortage) {
  const HolderChoice choice = choose_holders(NodeId("a"), 1, 0, std::vector{node("a", "A")});
  EXPECT_TRUE(choice.holders.empty());
  EXPECT_EQ(choice.reason, "");
}

TEST(Placement, SpreadsEvenlyOverEqualNodes) {
  std::vector<HolderNode> nodes;
  std::vector<Captures> owners;
  for (int i = 0; i < 8; ++i) {
    nodes.push_back(node(fmt::format("n{}", i), fmt::format("d{}", i)));
    owners.push_back({nodes.back().id, 100});
  }
  std::map<NodeId, uint32_t> held;
  for (const auto& [owner, choice] : assign_holders(owners, 2, nodes))
    for (const NodeId& holder : choice.holders) ++held[holder];
  ASSERT_EQ(held.size(), 8u);
  for (const auto& [holder, count] : held) EXPECT_EQ(count, 2u) << holder.value;
}

// Of two sums for one owner the second would silently take the place of the first.
TEST(PlacementDeathTest, AnOwnerThatIsNamedTwiceIsAProgrammersError) {
  const std::vector<HolderNode> nodes = {node("a", "A"), node("b", "B")};
  EXPECT_DEATH(assign_holders({{NodeId("a"), 1}, {NodeId("a"), 2}}, 1, nodes), "one sum");
}

// Random clusters: the rules hold, and the order in which nodes are named does not matter.
TEST(Placement, RandomClusters) {
  for (uint32_t seed = 1; seed <= 500; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    const uint32_t replicas = random() % 4;
    std::vector<HolderNode> nodes;
    std::vector<Captures> owners;
    std::map<NodeId, std::string> domain_of;
    std::set<std::string> domains;
    const uint32_t count = 1 + random() % 9;
    for (uint32_t i = 0; i < count; ++i) {
      const std::string domain = fmt::format("d{}", random() % 5);
      nodes.push_back(node(fmt::format("n{}", i), domain, random() % 50, {StageIndex(random() % 3)}));
      owners.push_back({nodes.back().id, random() % 100});
      domain_of[nodes.back().id] = domain;
      domains.insert(domain);
    }
    const auto choices = assign_holders(owners, replicas, nodes);
    for (const auto& [owner, choice] : choices) {
      std::set<std::string> used = {domain_of[owner]};
      for (const NodeId& holder : choice.holders)
        EXPECT_TRUE(used.insert(domain_of[holder]).second) << owner.value << " on " << holder.value;
      EXPECT_EQ(choice.holders.size(), std::min<size_t>(replicas, domains.size() - 1));
      EXPECT_EQ(choice.reason.empty(), choice.holders.size() == replicas);
    }
    std::shuffle(nodes.begin(), nodes.end(), random);
    std::shuffle(owners.begin(), owners.end(), random);
    for (const auto& [owner, choice] : assign_holders(owners, replicas, nodes))
      EXPECT_EQ(choice.holders, choices.at(owner).holders);
  }
}

}  // namespace
}  // namespace holdfast::storage
