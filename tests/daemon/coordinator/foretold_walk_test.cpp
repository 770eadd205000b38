// What-if, asked in thousands of short lives of a cluster: what the coordinator foretells is what it then
// decides, and asking changes nothing. HOLDFAST_WALK_SEED runs one walk only.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <map>

#include "tests/daemon/coordinator/sim_cluster.h"

namespace holdfast::daemon::sim {
namespace {

// Sanitizers make a walk ten times as long.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kWalks = 40;
#else
constexpr uint64_t kWalks = 400;
#endif

WalkOptions options_of(uint64_t seed) {
  WalkOptions options;
  options.seed = seed;
  options.stages = 1 + static_cast<uint32_t>(seed % 4);
  options.pipelines = (options.stages == 1 ? 2 : 1) + static_cast<uint32_t>(seed / 4 % 3);
  options.spares = seed / 12 % 3 == 0 ? 1 : 0;
  options.replicas = options.pipelines * options.stages > 2 ? 1 + static_cast<uint32_t>(seed / 7 % 2) : 1;
  options.steps = 40;
  options.every = 1 + static_cast<uint32_t>(seed / 5 % 5);
  options.faults = seed % 2 == 0 ? 0 : 3;  // before the question
  options.coordinator.daemon_grace_ms = 2'000;
  options.coordinator.quiesce_timeout_ms = 1'000;
  options.coordinator.restore_timeout_ms = 2'000;
  options.coordinator.arena_wait_ms = 8'000;
  options.coordinator.start_timeout_ms = 1'000;
  options.coordinator.bench_ms = 500;
  if (seed % 3 == 0) options.coordinator.fetch_bytes_per_second = 100'000;
  return options;
}

TEST(ForetoldWalk, WhatIsForetoldIsWhatComes) {
  const char* one = std::getenv("HOLDFAST_WALK_SEED");
  const uint64_t first = one ? std::strtoull(one, nullptr, 10) : 1;
  const uint64_t last = one ? first : kWalks;
  std::map<std::string, uint64_t> outcomes;
  uint64_t better = 0, moved = 0, fetched = 0, twice = 0;
  for (uint64_t seed = first; seed <= last; ++seed) {
    SimCluster cluster(options_of(seed));
    const auto events = static_cast<uint32_t>(300 + seed * 131 % 2'500);
    const Asked asked = cluster.ask_and_lose(events, 1 + static_cast<uint32_t>(seed / 3 % 3));
    if (asked.better)
      ++better;
    else
      EXPECT_EQ(asked.differs, "") << "seed " << seed;
    ++outcomes[asked.outcome];
    moved += asked.moved ? 1 : 0;
    fetched += asked.bytes_moved > 0 ? 1 : 0;
    twice += asked.steps_twice > 0 ? 1 : 0;
  }
  for (const auto& [outcome, count] : outcomes)
    std::printf("%s: %lu\n", outcome.empty() ? "not asked" : outcome.c_str(), count);
  std::printf("%lu with moves, %lu with bytes moved, %lu with steps done twice, %lu from a newer base\n", moved,
              fetched, twice, better);
  EXPECT_LE(better, last / 25);
  if (last - first + 1 < 400) return;
  EXPECT_GT(outcomes["continues"], last / 2);
  EXPECT_GT(outcomes["waits"], 0U);
  EXPECT_GT(outcomes["unaffected"], 0U);
  EXPECT_GT(outcomes["fails"], 0U);
  EXPECT_GT(moved, 0U);
  EXPECT_GT(fetched, 0U);
  EXPECT_GT(twice, 0U);
}

}  // namespace
}  // namespace holdfast::daemon::sim
