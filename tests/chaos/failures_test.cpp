// Real processes are killed, stopped and brought back; afterwards the promises of the design hold, and
// in reproducible mode every loss is bit for bit that of the unbroken run.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <random>

#include "tests/chaos/cluster.h"

namespace holdfast::chaos {
namespace {

constexpr uint64_t kSteps = 60;

uint64_t seed() {
  static const uint64_t value = [] {
    const char* given = std::getenv("HOLDFAST_TEST_SEED");
    const uint64_t chosen = given != nullptr ? std::strtoull(given, nullptr, 10)
                                             : std::random_device{}();
    fmt::print("HOLDFAST_TEST_SEED={}\n", chosen);
    return chosen;
  }();
  return value;
}

class Failures : public testing::Test {
 protected:
  void SetUp() override {
    random_.seed(seed());
    job_ = small_job(cluster_.directory(), true, kSteps);
    (void)unbroken_losses(job_);
    ASSERT_TRUE(cluster_.playground().start_all());
    cluster_.submit(job_);
    ASSERT_TRUE(cluster_.wait_for_step(random_step()));
  }

  uint64_t random_step() {
    return std::uniform_int_distribution<uint64_t>(5, kSteps / 2)(random_);
  }
  std::string random_node(uint32_t first = 1) {
    return fmt::format("node-{}", std::uniform_int_distribution<uint32_t>(first, 3)(random_));
  }

  void finish() {
    ASSERT_TRUE(cluster_.wait_for_state("done"));
    EXPECT_EQ(cluster_.losses(job_.name.value), unbroken_losses(job_));
    cluster_.expect_exactly_once(job_);
  }

  Cluster cluster_{ClusterOptions{}};
  conf::JobConfig job_;
  std::mt19937_64 random_;
};

TEST_F(Failures, WorkerKilled) {
  const std::string node = random_node(0);
  const uint64_t before = cluster_.last_event();
  const auto pid = cluster_.playground().worker_pid(node);
  ASSERT_TRUE(pid && *pid);
  kill(**pid, SIGKILL);
  const auto view = cluster_.wait_for_event("view", before);
  ASSERT_TRUE(view);
  finish();
}

TEST_F(Failures, NodeKilledAndBack) {
  const std::string node = random_node();
  const uint64_t before = cluster_.last_event();
  ASSERT_TRUE(cluster_.playground().kill_node(node));
  ASSERT_TRUE(cluster_.wait_for_event("first_step", before));
  ASSERT_TRUE(cluster_.playground().start_node(node));
  ASSERT_TRUE(cluster_.wait_for_event("rejoined", before));
  finish();
}

TEST_F(Failures, DaemonAloneKilledItsWorkerTrainsOnAndIsAdopted) {
  const std::string node = random_node();
  const auto pid = cluster_.playground().worker_pid(node);
  const uint64_t before = cluster_.last_event();
  ASSERT_TRUE(cluster_.playground().signal_daemon(node, SIGKILL));
  ASSERT_TRUE(cluster_.playground().start_node(node));
  finish();
  cluster_.wait("the adopted worker to end with the job", 20'000, [&] {
    return !cluster_.playground().worker_pid(node).value_or(std::nullopt);
  });
  for (const daemon::EventRecord& event : cluster_.events())
    if (event.sequence > before) {
      EXPECT_NE(event.kind, "view") << event.text;
    }
  ASSERT_TRUE(pid && *pid);
}

TEST_F(Failures, SeedNodeKilledTrainingWaitsUntilItIsBack) {
  ASSERT_TRUE(cluster_.playground().kill_node("node-0"));
  ASSERT_TRUE(cluster_.playground().start_node("node-0"));
  finish();
}

TEST_F(Failures, SeedDaemonAloneKilled) {
  ASSERT_TRUE(cluster_.playground().signal_daemon("node-0", SIGKILL));
  ASSERT_TRUE(cluster_.playground().start_node("node-0"));
  finish();
}

TEST_F(Failures, NodeStoppedIsEvictedAndFencedWhenItGoesOn) {
  const std::string node = random_node();
  const uint64_t before = cluster_.last_event();
  const auto pid = cluster_.playground().worker_pid(node);
  ASSERT_TRUE(pid && *pid);
  ASSERT_TRUE(cluster_.playground().signal_daemon(node, SIGSTOP));
  kill(**pid, SIGSTOP);
  ASSERT_TRUE(cluster_.wait_for_event("first_step", before));
  kill(**pid, SIGCONT);
  ASSERT_TRUE(cluster_.playground().signal_daemon(node, SIGCONT));
  finish();
}

TEST_F(Failures, WorkerStoppedIsFoundByItsFrozenCounter) {
  const std::string node = random_node();
  const uint64_t before = cluster_.last_event();
  const auto pid = cluster_.playground().worker_pid(node);
  ASSERT_TRUE(pid && *pid);
  kill(**pid, SIGSTOP);
  ASSERT_TRUE(cluster_.wait_for_event("worker_lost", before));
  finish();
}

TEST_F(Failures, StopAndResumeGoesOnBitForBit) {
  const auto stopped = cluster_.post(fmt::format("/v1/jobs/{}/stop", job_.name.value),
                                     boost::json::object());
  ASSERT_TRUE(stopped) << stopped.error().to_string();
  ASSERT_TRUE(cluster_.wait_for_state("stopped"));
  const auto resumed = cluster_.post(fmt::format("/v1/jobs/{}/resume", job_.name.value),
                                     boost::json::object());
  ASSERT_TRUE(resumed) << resumed.error().to_string();
  finish();
}

}  // namespace
}  // namespace holdfast::chaos
