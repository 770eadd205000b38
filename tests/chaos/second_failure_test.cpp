// Two of four nodes are lost with r = 2: at once, and the second one in the middle of the recovery
// from the first, at every named fault point.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <set>

#include "tests/chaos/failures.h"

namespace holdfast::chaos {
namespace {

enum Where { kWorker, kDaemon, kSeed };  // kDaemon: of any node but the seed
struct Victim {
  const char* name;
  const char* fault;  // where the second victim dies
  Where where;
  const char* before;  // the event of the recovery that must not have come by then; "": any may have
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
  job_.steps = kLongSteps;  // long enough for both to come back
  run();
  const std::string first = random_node();
  const std::string second = random_node(1, first);
  const uint64_t before = cluster_.last_event();
  ASSERT_TRUE(cluster_.playground().kill_node(first));
  ASSERT_TRUE(cluster_.playground().kill_node(second));
  ASSERT_TRUE(cluster_.wait_for_event("first_step", before));
  ASSERT_TRUE(cluster_.playground().start_node(first));
  ASSERT_TRUE(cluster_.playground().start_node(second));
  ASSERT_TRUE(cluster_.wait_for_event("rejoined", before, first));
  ASSERT_TRUE(cluster_.wait_for_event("rejoined", before, second));
  expect_promises();
}

TEST_P(TwoFailures, SecondKilledWhileTheFirstComesBack) {
  job_.steps = kLongSteps;
  run();
  const std::string first = random_node();
  const std::string second = random_node(1, first);
  const uint64_t before = cluster_.last_event();
  ASSERT_TRUE(cluster_.playground().kill_node(first));
  ASSERT_TRUE(cluster_.wait_for_event("first_step", before));
  ASSERT_TRUE(cluster_.playground().start_node(first));
  const auto up = cluster_.wait_for_event("node_up", before, first);
  ASSERT_TRUE(up);
  ASSERT_TRUE(cluster_.wait_for_event("planned", up->sequence));
  const uint64_t returning = cluster_.last_event();
  ASSERT_TRUE(cluster_.playground().kill_node(second));
  ASSERT_TRUE(cluster_.wait_for_event("first_step", returning)) << "the job ended too early";
  ASSERT_TRUE(cluster_.playground().start_node(second));
  ASSERT_TRUE(cluster_.wait_for_event("rejoined", returning, second));
  expect_promises();
}

// A node that takes its share back has to fetch it: nothing of the present is in its arena.
TEST_P(TwoFailures, ReturningNodeDiesWhileItFetches) {
  job_.steps = kLongSteps;
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

// The same as the second failure, while another node is away. It may have become a holder of all it needs
// first, and then fetches nothing.
TEST_P(TwoFailures, ReturningNodeDiesAsItIsRestoredAndAnotherIsAway) {
  job_.steps = kLongSteps;
  run();
  const std::string away = random_node();
  const std::string node = random_node(1, away);
  const uint64_t before = cluster_.last_event();
  ASSERT_TRUE(cluster_.playground().kill_node(away));
  ASSERT_TRUE(cluster_.playground().kill_node(node));
  ASSERT_TRUE(cluster_.wait_for_event("first_step", before));
  ASSERT_TRUE(cluster_.playground().start_node(node, {{"HOLDFAST_FAULT", "node.restore:1"}}));
  ASSERT_TRUE(cluster_.wait(node + " to die", 30'000,
                            [&] { return !cluster_.playground().daemon_runs(node); }));
  ASSERT_TRUE(cluster_.playground().kill_node(node));
  ASSERT_TRUE(cluster_.playground().start_node(node));
  ASSERT_TRUE(cluster_.wait_for_event("rejoined", before, node));
  expect_promises();
}

INSTANTIATE_TEST_SUITE_P(Seeds, TwoFailures, testing::ValuesIn(seeds()));

// Chains, so that the second failure strikes in the recovery from the first whatever the machine's
// speed: `go` is passed once when the job starts, and again when the view without the first is open.
constexpr Victim kVictims[] = {
    {"coordinator.epoch", "node.go:1+coordinator.epoch:1", kSeed, "quiesce"},
    {"epoch_stored", "node.go:1+coordinator.epoch:1+coordinator.store:1", kSeed, "quiesce"},
    {"view_stored", "node.go:1+coordinator.epoch:1+coordinator.store:3", kSeed, "protected"},
    {"node.quiesce", "node.go:1+node.quiesce:1", kDaemon, "view"},
    {"node.restore", "node.go:1+node.restore:1", kDaemon, "protected"},
    {"node.go", "node.go:1+node.go:1", kDaemon, "protected"},
    {"replica.grant", "node.go:2+replica.grant:1", kDaemon, "protected"},
    {"replica.write", "node.go:2+replica.write:1", kDaemon, "protected"},
    {"replica.commit", "node.go:2+replica.commit:1", kDaemon, "protected"},
    {"node.watermark", "node.go:2+node.watermark:1", kDaemon, ""},
    {"worker.quiesce", "worker.go:1+worker.quiesce:1", kWorker, "view"},
    {"worker.restore", "worker.go:1+worker.restore:1", kWorker, "protected"},
    // The base is protected within milliseconds of `go`, from arenas alone.
    {"worker.go", "worker.go:1+worker.go:1", kWorker, "first_step"},
    {"train.materialize", "worker.go:2+train.materialize:1", kWorker, "first_step"},
    {"train.forward", "worker.go:2+train.forward:1", kWorker, "first_step"},
    {"train.reduce", "worker.go:2+train.reduce:1", kWorker, "first_step"},
    {"train.update", "worker.go:2+train.update:1", kWorker, "first_step"},
    {"train.updated", "worker.go:2+train.updated:1", kWorker, "first_step"},
    {"worker.capture", "worker.go:2+worker.capture:1", kWorker, ""},
};

class SecondInRecovery : public FailureTest,
                         public testing::WithParamInterface<std::tuple<uint64_t, Victim>> {
 protected:
  // What the cluster itself noted between the first kill and the second death.
  void expect_struck_in_recovery(const Victim& victim, const std::string& second, uint64_t before,
                                 int64_t dead_ms) {
    std::set<std::string> kinds;
    for (const daemon::EventRecord& event : cluster_.events()) {
      if (event.sequence <= before) continue;
      const bool noticed = event.kind == "worker_lost" || event.kind == "node_suspected";
      if (event.wall_ms > dead_ms || (noticed && detail(event, "node") == second)) break;
      kinds.insert(event.kind);
    }
    const std::string too_late = victim.before;
    if (too_late != "quiesce") {
      EXPECT_TRUE(kinds.contains("quiesce")) << second << " died before the recovery began";
    }
    EXPECT_FALSE(kinds.contains(too_late)) << second << " died later than meant";
  }
};

int64_t wall_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// A machine that dies at that moment: the daemon or worker that passes the point kills itself, the
// other process of its node is killed as soon as that is seen, and both come back later.
TEST_P(SecondInRecovery, TheNodeDiesAtThatMoment) {
  const auto& [seed, victim] = GetParam();
  begin(seed);
  job_.tolerate = 2;
  job_.snapshot.replicas = 2;
  const bool on_seed = victim.where == kSeed;
  const bool in_worker = victim.where == kWorker;
  const std::string second = on_seed ? "node-0" : random_node();
  const std::string first = random_node(1, second);
  run(second, {{in_worker ? "HOLDFAST_WORKER_FAULT" : "HOLDFAST_FAULT", victim.fault}});
  // Version 0 is protected at once: it is computed, not kept.
  ASSERT_TRUE(cluster_.wait_for_safe(1));
  const pid_t worker = worker_of(second);
  const uint64_t before = cluster_.last_event();
  for (const daemon::EventRecord& event : cluster_.events())
    ASSERT_NE(event.kind, "worker_lost") << "the armed worker was lost too early: " << event.text;
  const auto dead = [&] {
    return in_worker ? kill(worker, 0) != 0 : !cluster_.playground().daemon_runs(second);
  };
  ASSERT_FALSE(dead());
  ASSERT_TRUE(cluster_.playground().kill_node(first));
  ASSERT_TRUE(cluster_.wait(fmt::format("{} to reach {}", second, victim.fault), 30'000, dead));
  const int64_t dead_ms = wall_ms();
  ASSERT_TRUE(cluster_.playground().kill_node(second));
  ASSERT_TRUE(cluster_.playground().start_node(second));
  expect_struck_in_recovery(victim, second, before, dead_ms);
  ASSERT_TRUE(cluster_.playground().start_node(first));
  expect_promises();
}

INSTANTIATE_TEST_SUITE_P(Points, SecondInRecovery,
                         testing::Combine(testing::ValuesIn(seeds()), testing::ValuesIn(kVictims)),
                         [](const auto& info) {
                           std::string name = std::get<1>(info.param).name;
                           for (char& c : name)
                             if (c == '.') c = '_';
                           return fmt::format("{}_{}", name, info.index);
                         });

}  // namespace
}  // namespace holdfast::chaos
