// What the chaos tests share: a job that runs to a random step, and the promises afterwards.
#pragma once

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "tests/chaos/cluster.h"

namespace holdfast::chaos {

// HOLDFAST_TEST_SEED if given, else a random one, printed; HOLDFAST_CHAOS_SEEDS of them (2).
std::vector<uint64_t> seeds();

class FailureTest : public testing::Test {
 protected:
  static constexpr uint64_t kSteps = 60;
  // A daemon takes a second to start, in which a hundred steps are made: where its return is awaited.
  static constexpr uint64_t kLongSteps = 400;

  void begin(uint64_t seed);
  // Starts the nodes (`environment` for the node of that name), submits the job and waits until it
  // has reached a random step.
  void run(const std::string& name = "", const ctl::Playground::Environment& environment = {});
  uint64_t random(uint64_t first, uint64_t last) {
    return std::uniform_int_distribution<uint64_t>(first, last)(random_);
  }
  // One of node-`first` .. node-3, never `other`.
  std::string random_node(uint32_t first = 1, const std::string& other = "");
  pid_t worker_of(const std::string& node);

  // The job ends, and the promises of DESIGN section 12 hold: reproducible (every loss bit for bit
  // that of the unbroken run, which mixed histories would change), exactly-once, no-loss.
  void expect_promises();

  Cluster cluster_{ClusterOptions{}};
  conf::JobConfig job_;
  std::mt19937_64 random_;
};

class Failures : public FailureTest, public testing::WithParamInterface<uint64_t> {
 protected:
  void SetUp() override { begin(GetParam()); }
};

}  // namespace holdfast::chaos
