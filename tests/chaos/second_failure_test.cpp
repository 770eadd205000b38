// Two of four nodes are lost with r = 2: at once, and the second one in the middle of the recovery
// from the first, at every named fault point.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "tests/chaos/failures.h"

namespace holdfast::chaos {
namespace {

struct Victim {
  const char* fault;   // where the second victim dies: "name:n", the n-th time
  bool in_worker;      // of its worker, else of its daemon
  const char* node;    // nullptr: any but the seed
};

void PrintTo(const Victim& victim, std::ostream* out) { *out << victim.fault; }

class TwoFailures : public Failures {
 protected:
  void SetUp() override {
    Failures::SetUp();
    job_.tolerate = 2;
    job_.snapshot.replicas = 2;
  }
};

TEST_P(TwoFailures, TwoNodesKilledAtOnceAndBack) {
  run();
  const std::string first = random_node();
  const std::string second = random_node(1, first);
  const uint64_t before = cluster_.last_event();
  ASSERT_TRUE(cluster_.playground().kill_node(first));
  ASSERT_TRUE(cluster_.playground().kill_node(second));
  ASSERT_TRUE(cluster_.wait_for_event("first_step", before));
  ASSERT_TRUE(cluster_.playground().start_node(first));
  ASSERT_TRUE(cluster_.playground().start_node(second));
  expect_promises();
}

TEST_P(TwoFailures, SecondKilledWhileTheFirstComesBack) {
  run();
  const std::string first = random_node();
  const std::string second = random_node(1, first);
  ASSERT_TRUE(cluster_.playground().kill_node(first));
  ASSERT_TRUE(cluster_.playground().start_node(first));
  ASSERT_TRUE(cluster_.playground().kill_node(second));
  ASSERT_TRUE(cluster_.playground().start_node(second));
  expect_promises();
}

// A node that takes its share back has to fetch it: nothing of the present is in its arena.
TEST_P(TwoFailures, ReturningNodeDiesWhileItFetches) {
  run();
  const std::string node = random_node();
  const uint64_t before = cluster_.last_event();
  ASSERT_TRUE(cluster_.playground().kill_node(node));
  ASSERT_TRUE(cluster_.wait_for_event("first_step", before));
  ASSERT_TRUE(cluster_.playground().start_node(node, {{"HOLDFAST_FAULT", "replica.fetch:1"}}));
  ASSERT_TRUE(cluster_.wait(node + " to die", 30'000,
                            [&] { return !cluster_.playground().daemon_runs(node); }));
  ASSERT_TRUE(cluster_.playground().kill_node(node));
  ASSERT_TRUE(cluster_.playground().start_node(node));
  ASSERT_TRUE(cluster_.wait_for_event("rejoined", before));
  expect_promises();
}

INSTANTIATE_TEST_SUITE_P(Seeds, TwoFailures, testing::ValuesIn(seeds()));

// The points of a daemon are passed once when the job starts and again in the recovery.
constexpr Victim kVictims[] = {
    {"node.quiesce:2", false, nullptr},     {"node.restore:2", false, nullptr},
    {"node.go:2", false, nullptr},          {"node.watermark:30", false, nullptr},
    {"replica.grant:40", false, nullptr},
    {"replica.write:40", false, nullptr},   {"replica.commit:40", false, nullptr},
    {"coordinator.epoch:2", false, "node-0"}, {"coordinator.store:700", false, "node-0"},
    {"worker.quiesce:2", true, nullptr},    {"worker.restore:2", true, nullptr},
    {"worker.go:2", true, nullptr},         {"worker.capture:30", true, nullptr},
    {"train.materialize:30", true, nullptr}, {"train.forward:80", true, nullptr},
    {"train.reduce:40", true, nullptr},     {"train.update:40", true, nullptr},
    {"train.updated:40", true, nullptr},
};

class SecondInRecovery : public FailureTest,
                         public testing::WithParamInterface<std::tuple<uint64_t, Victim>> {};

// A machine that dies at that moment: the daemon or worker that passes the point kills itself, the
// other process of its node is killed as soon as that is seen, and both come back later.
TEST_P(SecondInRecovery, TheNodeDiesAtThatMoment) {
  const auto& [seed, victim] = GetParam();
  begin(seed);
  job_.tolerate = 2;
  job_.snapshot.replicas = 2;
  const std::string second = victim.node != nullptr ? victim.node : random_node();
  const std::string first = random_node(1, second);
  run(second, {{victim.in_worker ? "HOLDFAST_WORKER_FAULT" : "HOLDFAST_FAULT", victim.fault}});
  const pid_t worker = worker_of(second);
  ASSERT_TRUE(cluster_.playground().kill_node(first));
  ASSERT_TRUE(cluster_.wait(fmt::format("{} to reach {}", second, victim.fault), 30'000, [&] {
    return victim.in_worker ? kill(worker, 0) != 0 : !cluster_.playground().daemon_runs(second);
  }));
  ASSERT_TRUE(cluster_.playground().kill_node(second));
  ASSERT_TRUE(cluster_.playground().start_node(second));
  ASSERT_TRUE(cluster_.playground().start_node(first));
  expect_promises();
}

INSTANTIATE_TEST_SUITE_P(Points, SecondInRecovery,
                         testing::Combine(testing::Values(seeds().front()),
                                          testing::ValuesIn(kVictims)),
                         [](const auto& info) {
                           std::string name = std::get<1>(info.param).fault;
                           for (char& c : name)
                             if (c == '.' || c == ':') c = '_';
                           return name;
                         });

}  // namespace
}  // namespace holdfast::chaos
