// What is left of a benchmark's cluster.
#include "bench/cluster_run.h"

#include <gtest/gtest.h>

namespace holdfast::bench {
namespace {

namespace fs = std::filesystem;

conf::JobConfig two_workers() {
  conf::JobConfig job;
  job.pipelines = 2;
  return job;
}

TEST(ClusterFolder, GoesWhenTheRunEnds) {
  {
    const ClusterRun run(two_workers());
    ASSERT_TRUE(fs::exists(cluster_folder() / "node-1"));
  }
  EXPECT_FALSE(fs::exists(cluster_folder()));
}

TEST(ClusterFolder, StaysWhenTheRunFailsAndItsPathIsPrinted) {
  testing::internal::CaptureStderr();
  try {
    const ClusterRun run(two_workers());
    must(fail(ErrorCode::kTimeout, "not in time"));
  } catch (const Failed&) {
  }
  const std::string printed = testing::internal::GetCapturedStderr();
  EXPECT_NE(printed.find(cluster_folder().string()), std::string::npos) << printed;
  EXPECT_TRUE(fs::exists(cluster_folder() / "node-1"));
  fs::remove_all(cluster_folder());
}

}  // namespace
}  // namespace holdfast::bench
