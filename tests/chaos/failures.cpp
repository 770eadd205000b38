#include "tests/chaos/failures.h"

#include <fmt/format.h>

#include <cstdlib>

namespace holdfast::chaos {

std::vector<uint64_t> seeds() {
  const char* given = std::getenv("HOLDFAST_TEST_SEED");
  const uint64_t first =
      given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  const char* count = std::getenv("HOLDFAST_CHAOS_SEEDS");
  std::vector<uint64_t> all;
  for (int i = 0; i < (count != nullptr ? std::atoi(count) : 2); ++i) all.push_back(first + i);
  return all;
}

void FailureTest::begin(uint64_t seed) {
  fmt::print("HOLDFAST_TEST_SEED={} HOLDFAST_CHAOS_SEEDS=1\n", seed);
  random_.seed(seed);
  job_ = small_job(cluster_.directory(), true, kSteps);
  (void)unbroken_losses(job_);
}

void FailureTest::run(const std::string& name, const ctl::Playground::Environment& environment) {
  for (const ctl::PlaygroundNode& node : cluster_.playground().nodes()) {
    const Status started = cluster_.playground().start_node(
        node.name, node.name == name ? environment : ctl::Playground::Environment{});
    ASSERT_TRUE(started) << started.error().to_string();
  }
  ASSERT_TRUE(cluster_.wait("all nodes up", 20'000, [&] {
    const auto now = cluster_.status();
    return now && now->nodes_up == cluster_.playground().nodes().size();
  }));
  cluster_.submit(job_);
  ASSERT_TRUE(cluster_.wait_for_step(random(5, kSteps / 2)));
}

std::string FailureTest::random_node(uint32_t first, const std::string& other) {
  std::string node;
  do node = fmt::format("node-{}", random(first, 3));
  while (node == other);
  return node;
}

pid_t FailureTest::worker_of(const std::string& node) {
  const auto pid = cluster_.playground().worker_pid(node);
  EXPECT_TRUE(pid && *pid) << "no worker runs on " << node;
  return pid && *pid ? **pid : 0;
}

void FailureTest::expect_promises() {
  ASSERT_TRUE(cluster_.wait_for_state("done"));
  const Losses losses = cluster_.losses(job_.name.value);
  const Losses& unbroken = unbroken_losses(job_);
  ASSERT_EQ(losses.size(), unbroken.size());
  for (const auto& [step, loss] : unbroken)
    EXPECT_TRUE(losses.at(step) == loss)
        << "reproducible is broken at step " << step << ": " << losses.at(step).loss << " instead of "
        << loss.loss;
  cluster_.expect_exactly_once(job_);
  cluster_.expect_no_loss();
}

}  // namespace holdfast::chaos
