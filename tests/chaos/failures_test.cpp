// Real processes are killed, stopped and brought back; afterwards the promises of the design hold, and
// in reproducible mode every loss is bit for bit that of the unbroken run.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "tests/chaos/failures.h"

namespace holdfast::chaos {
namespace {

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
  const uint64_t before = cluster_.last_event();
  ASSERT_TRUE(cluster_.playground().signal_daemon(node, SIGKILL));
  ASSERT_TRUE(cluster_.playground().start_node(node));
  expect_promises();
  cluster_.wait("the adopted worker to end with the job", 20'000, [&] {
    return !cluster_.playground().worker_pid(node).value_or(std::nullopt);
  });
  for (const daemon::EventRecord& event : cluster_.events())
    if (event.sequence > before) {
      EXPECT_NE(event.kind, "view") << event.text;
    }
  ASSERT_GT(pid, 0);
}

TEST_P(Failures, SeedNodeKilledTrainingWaitsUntilItIsBack) {
  run();
  ASSERT_TRUE(cluster_.playground().kill_node("node-0"));
  ASSERT_TRUE(cluster_.playground().start_node("node-0"));
  expect_promises();
}

TEST_P(Failures, SeedDaemonAloneKilled) {
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
  expect_promises();
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

}  // namespace
}  // namespace holdfast::chaos
