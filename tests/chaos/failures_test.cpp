// Real processes are killed, stopped and brought back; afterwards the promises of the design hold, and
// in reproducible mode every loss is bit for bit that of the unbroken run.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>

#include "tests/chaos/failures.h"

namespace holdfast::chaos {
namespace {

class SeedFailures : public Failures {
 protected:
  // Told by the daemons of node-1 to node-3 themselves: the coordinator may be away.
  uint64_t newest_step_of_the_others() {
    uint64_t newest = 0;
    for (const char* node : {"node-1", "node-2", "node-3"})
      if (const auto now = cluster_.status(node))
        for (const auto& worker : now->local.workers) newest = std::max(newest, worker.step.value);
    return newest;
  }
};

TEST_P(Failures, WorkerKilled) {
  run();
  const std::string node = random_node(0);
  const uint64_t before = cluster_.last_event();
  const pid_t pid = worker_of(node);
  ASSERT_GT(pid, 0);
  kill(pid, SIGKILL);
  const auto view = cluster_.wait_for_event("view", before);
  ASSERT_TRUE(view);
  expect_promises();
}

TEST_P(Failures, NodeKilledAndBack) {
  job_.steps = kLongSteps;
  run();
  const std::string node = random_node();
  const uint64_t before = cluster_.last_event();
  ASSERT_TRUE(cluster_.playground().kill_node(node));
  ASSERT_TRUE(cluster_.wait_for_event("first_step", before));
  ASSERT_TRUE(cluster_.playground().start_node(node));
  ASSERT_TRUE(cluster_.wait_for_event("rejoined", before));
  expect_promises();
}

TEST_P(Failures, DaemonAloneKilledItsWorkerTrainsOnAndIsAdopted) {
  run();
  const std::string node = random_node();
  const pid_t pid = worker_of(node);
  ASSERT_GT(pid, 0);
  const uint64_t before = cluster_.last_event();
  ASSERT_TRUE(cluster_.playground().signal_daemon(node, SIGKILL));
  ASSERT_TRUE(cluster_.playground().start_node(node));
  ASSERT_EQ(worker_of(node), pid) << "another worker was started";
  expect_promises();
  cluster_.wait("the adopted worker to end with the job", 20'000, [&] {
    return !cluster_.playground().worker_pid(node).value_or(std::nullopt);
  });
  for (const daemon::EventRecord& event : cluster_.events())
    if (event.sequence > before) {
      EXPECT_NE(event.kind, "view") << event.text;
    }
}

TEST_P(SeedFailures, SeedNodeKilledTrainingWaitsUntilItIsBack) {
  run();
  const uint64_t before = cluster_.last_event();
  ASSERT_TRUE(cluster_.playground().kill_node("node-0"));
  const uint64_t killed_at = newest_step_of_the_others();
  ASSERT_TRUE(cluster_.wait("the others to notice and stand still", 20'000, [&] {
    for (const char* node : {"node-1", "node-2", "node-3"}) {
      const auto now = cluster_.status(node);
      if (!now || now->local.coordinator_reachable || now->local.workers.empty()) return false;
      for (const auto& worker : now->local.workers)
        if (worker.phase == "running") return false;
    }
    return true;
  }));
  const uint64_t stood_at = newest_step_of_the_others();
  EXPECT_LE(stood_at, killed_at + 2) << "trained on without the seed's worker";
  ASSERT_TRUE(cluster_.playground().start_node("node-0"));
  const auto first = cluster_.wait_for_event("first_step", before);
  ASSERT_TRUE(first);
  const uint64_t step = std::stoull(detail(*first, "step"));
  EXPECT_LE(step, stood_at + 1) << "steps were made while the coordinator was away";
  EXPECT_GT(step, 0u) << "began anew instead of going on";
  expect_promises();
}

TEST_P(SeedFailures, SeedDaemonAloneKilled) {
  run();
  const uint64_t before = cluster_.last_event();
  ASSERT_TRUE(cluster_.playground().signal_daemon("node-0", SIGKILL));
  ASSERT_TRUE(cluster_.playground().start_node("node-0"));
  ASSERT_TRUE(cluster_.wait_for_event("taken_over", before));
  expect_promises();
  for (const daemon::EventRecord& event : cluster_.events())
    if (event.sequence > before) {
      EXPECT_NE(event.kind, "view") << event.text;
    }
}

TEST_P(Failures, NodeStoppedIsEvictedAndFencedWhenItGoesOn) {
  job_.steps = kLongSteps;
  run();
  const std::string node = random_node();
  const uint64_t before = cluster_.last_event();
  const pid_t pid = worker_of(node);
  ASSERT_GT(pid, 0);
  ASSERT_TRUE(cluster_.playground().signal_daemon(node, SIGSTOP));
  kill(pid, SIGSTOP);
  ASSERT_TRUE(cluster_.wait_for_event("first_step", before));
  kill(pid, SIGCONT);
  ASSERT_TRUE(cluster_.playground().signal_daemon(node, SIGCONT));
  // What it still did in the epoch that it was stopped in had no effect: the losses tell.
  ASSERT_TRUE(cluster_.wait_for_event("rejoined", before, node));
  expect_promises();
  ASSERT_TRUE(cluster_.wait("the stopped worker to end", 30'000,
                            [&] { return kill(pid, 0) != 0; }));
}

TEST_P(Failures, WorkerStoppedIsFoundByItsFrozenCounter) {
  run();
  const std::string node = random_node();
  const uint64_t before = cluster_.last_event();
  const pid_t pid = worker_of(node);
  ASSERT_GT(pid, 0);
  kill(pid, SIGSTOP);
  ASSERT_TRUE(cluster_.wait_for_event("worker_lost", before));
  expect_promises();
}

TEST_P(Failures, StopAndResumeGoesOnBitForBit) {
  run();
  const auto stopped = cluster_.post(fmt::format("/v1/jobs/{}/stop", job_.name.value),
                                     boost::json::object());
  ASSERT_TRUE(stopped) << stopped.error().to_string();
  ASSERT_TRUE(cluster_.wait_for_state("stopped"));
  const auto resumed = cluster_.post(fmt::format("/v1/jobs/{}/resume", job_.name.value),
                                     boost::json::object());
  ASSERT_TRUE(resumed) << resumed.error().to_string();
  expect_promises();
}

INSTANTIATE_TEST_SUITE_P(Seeds, Failures, testing::ValuesIn(seeds()));
INSTANTIATE_TEST_SUITE_P(Seeds, SeedFailures, testing::ValuesIn(seeds()));

}  // namespace
}  // namespace holdfast::chaos
