// Thousands of short lives of a cluster, each from one seed: slow and lost replication, deaths in every
// phase, returns with stale arenas, restarts of the coordinator. The promises one-version, no-loss,
// fencing and exactly-once are checked after every event. HOLDFAST_WALK_SEED runs one walk only,
// HOLDFAST_WALKS sets how many.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <functional>

#include "tests/daemon/coordinator/sim_cluster.h"

namespace holdfast::daemon::sim {
namespace {

// Sanitizers make a walk ten times as long, and look for something else.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kWalks = 200;
#else
constexpr uint64_t kWalks = 2'000;
#endif

uint64_t number(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

WalkOptions options_of(uint64_t seed) {
  WalkOptions options;
  options.seed = seed;
  options.stages = 1 + static_cast<uint32_t>(seed / 4 % 4);
  options.pipelines = (options.stages == 1 ? 2 : 1) + static_cast<uint32_t>(seed % 4);
  if (options.stages * options.pipelines > 8 && seed % 3 != 0) options.pipelines = 2;
  options.spares = seed / 16 % 3 == 0 ? 1 : 0;
  options.replicas = options.pipelines * options.stages > 2 ? 1 + static_cast<uint32_t>(seed / 7 % 2) : 1;
  options.steps = 10 + static_cast<uint32_t>(seed / 8 % 20);
  options.every = 1 + static_cast<uint32_t>(seed / 5 % 5);
  options.faults = static_cast<uint32_t>(seed / 3 % 13);
  options.staggered = options.stages > 1 && seed / 16 % 2 == 1;
  // Time passes slowly here (10 ms an event at most): limits that suit it.
  options.coordinator.daemon_grace_ms = 2'000;
  options.coordinator.quiesce_timeout_ms = 1'000;
  options.coordinator.restore_timeout_ms = 2'000;
  options.coordinator.arena_wait_ms = 8'000;
  options.coordinator.start_timeout_ms = 1'000;
  options.coordinator.steps_stopped_ms = 500;
  options.coordinator.stall_timeout_ms = 4'000;
  options.coordinator.planned_timeout_ms = 2'000;
  options.coordinator.capture_timeout_ms = 2'000;
  options.coordinator.bench_ms = 500;
  // A step takes 10 ms: now one, now a fetch of some kilobytes is the faster way.
  if (seed % 3 != 0) options.coordinator.fetch_bytes_per_second = seed % 3 == 1 ? 1'000 : 100'000;
  return options;
}

TEST(Walk, KeepsEveryPromise) {
  const uint64_t one = number("HOLDFAST_WALK_SEED", 0);
  const uint64_t walks = one ? 1 : number("HOLDFAST_WALKS", kWalks);
  uint64_t events = 0, views = 0, fenced = 0, moved = 0, older = 0, apart = 0;
  for (uint64_t i = 0; i < walks; ++i) {
    SimCluster cluster(options_of(one ? one : i + 1));
    ASSERT_EQ(cluster.run(), "");
    events += cluster.events();
    views += cluster.views();
    fenced += cluster.fenced();
    moved += cluster.moved();
    older += cluster.older_bases();
    apart += cluster.apart();
  }
  std::printf("%lu walks, %lu events, %lu views, %lu from an older base, %lu workers moved, "
              "%lu messages fenced, %lu times a stage was behind\n",
              walks, events, views, older, moved, fenced, apart);
  if (walks >= 1'000) {
    EXPECT_GT(views, 2 * walks);  // walks in which nothing happens prove nothing
    EXPECT_GT(fenced, walks / 10);
    EXPECT_GT(moved, walks / 10);
    EXPECT_GT(apart, walks);
    EXPECT_GT(older, 0U);  // rare: the newest must lie, captured, at the node of a worker that died
  }
}

// The walk must notice when a safeguard is taken out.
uint64_t walks_until_broken(const std::function<void(WalkOptions&)>& take_out, std::string& how) {
  for (uint64_t seed = 1; seed <= 3'000; ++seed) {
    WalkOptions options = options_of(seed);
    options.faults = 8;
    take_out(options);
    SimCluster cluster(options);
    how = cluster.run();
    if (!how.empty()) return seed;
  }
  return 0;
}

TEST(Walk, FindsTheFaultWithoutTheMadeTag) {
  std::string how;
  EXPECT_GT(walks_until_broken([](auto& o) { o.coordinator.test_ignore_made = true; }, how), 0U);
  EXPECT_THAT(how, testing::AnyOf(testing::HasSubstr("one-version"),
                                  testing::HasSubstr("exactly-once")));
}

TEST(Walk, FindsTheFaultWithoutTheAbortWord) {
  std::string how;
  EXPECT_GT(walks_until_broken([](auto& o) { o.take_out.no_abort_word = true; }, how), 0U);
  EXPECT_THAT(how, testing::HasSubstr("one-version"));
}

TEST(Walk, FindsStagesThatDoNotWaitForTheirData) {
  std::string how;
  const auto take_out = [](auto& o) {
    o.staggered = o.stages > 1;
    o.take_out.no_data_flow = true;
  };
  EXPECT_GT(walks_until_broken(take_out, how), 0U);
  EXPECT_THAT(how, testing::HasSubstr("one-version"));
}

TEST(Walk, FindsTheFaultWithoutTheProtectedGate) {
  std::string how;
  EXPECT_GT(walks_until_broken([](auto& o) { o.coordinator.test_skip_protection = true; }, how), 0U);
  EXPECT_THAT(how, testing::HasSubstr("no-loss"));
}

TEST(Walk, FindsTheFaultWithoutFencing) {
  std::string how;
  EXPECT_GT(walks_until_broken([](auto& o) { o.coordinator.test_ignore_epoch = true; }, how), 0U);
  EXPECT_THAT(how, testing::HasSubstr("fencing"));
}

TEST(Walk, FindsAnOwnerOutsideOfTheShardsStage) {
  std::string how;
  EXPECT_GT(walks_until_broken([](auto& o) { o.coordinator.test_ignore_stage = true; }, how), 0U);
  EXPECT_THAT(how, testing::HasSubstr("stages: shard"));
}

}  // namespace
}  // namespace holdfast::daemon::sim
