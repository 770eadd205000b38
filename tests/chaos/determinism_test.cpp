// Promise `reproducible` on whole clusters, and how far default mode strays after a failure.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/chaos/failures.h"

namespace holdfast::chaos {
namespace {

class Determinism : public Failures {
 protected:
  void SetUp() override {
    begin(GetParam());
    job_.reproducible = false;
  }
};

TEST_P(Determinism, DefaultModeTwiceIsBitIdentical) {
  EXPECT_EQ(run_unbroken(job_), unbroken_losses(job_));
}

TEST_P(Determinism, DefaultModeStaysCloseAfterANodeIsLost) {
  run();
  const uint64_t before = cluster_.last_event();
  ASSERT_TRUE(cluster_.playground().kill_node(random_node()));
  const auto view = cluster_.wait_for_event("view", before);
  ASSERT_TRUE(view);
  uint64_t base = 0;
  for (const auto& [key, value] : view->details)
    if (key == "base") base = std::stoull(value);
  ASSERT_TRUE(cluster_.wait_for_state("done"));
  cluster_.expect_exactly_once(job_);
  cluster_.expect_no_loss();

  const Losses losses = cluster_.losses(job_.name.value);
  const Losses& unbroken = unbroken_losses(job_);
  ASSERT_EQ(losses.size(), kSteps);
  ASSERT_EQ(unbroken.size(), kSteps);
  for (uint64_t step = 0; step < base; ++step)
    EXPECT_EQ(losses.at(step).loss, unbroken.at(step).loss) << "before the failure, step " << step;
  ASSERT_LT(base + 5, kSteps);
  for (uint64_t step = base; step < base + 5; ++step)
    EXPECT_NEAR(losses.at(step).loss / unbroken.at(step).loss, 1, 1e-3) << "step " << step;
  const auto held_out = losses.rbegin()->second.held_out;
  const auto expected = unbroken.rbegin()->second.held_out;
  ASSERT_TRUE(held_out && expected);
  EXPECT_NEAR(*held_out / *expected, 1, 0.01);
}

// Not only in reproducible mode: what is restored is the very state that was left, on as many lanes.
TEST_P(Determinism, DefaultModeStoppedAndResumedIsBitIdentical) {
  run();
  ASSERT_TRUE(cluster_.post("/v1/jobs/tiny/stop", boost::json::object()));
  ASSERT_TRUE(cluster_.wait_for_state("stopped"));
  ASSERT_TRUE(cluster_.post("/v1/jobs/tiny/resume", boost::json::object()));
  expect_promises();
}

INSTANTIATE_TEST_SUITE_P(Seeds, Determinism, testing::ValuesIn(seeds()));

class Lanes : public FailureTest, public testing::WithParamInterface<uint32_t> {};

TEST_P(Lanes, SameMicroBatchesSameLosses) {
  begin(GetParam());
  EXPECT_EQ(run_unbroken(job_, GetParam()), unbroken_losses(job_));
}

INSTANTIATE_TEST_SUITE_P(OneToFour, Lanes, testing::Values(1u, 2u, 3u, 4u));

}  // namespace
}  // namespace holdfast::chaos
