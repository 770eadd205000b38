// What the GPU benchmarks train on, and what they take for equal.
#include "bench/gpu/bench_models.h"

#include <gtest/gtest.h>

#include <limits>
#include <set>

namespace holdfast::bench {
namespace {

conf::JobConfig job_of(uint32_t pipelines, uint32_t micro_batches) {
  conf::JobConfig job;
  job.model = benches().at("tiny").model;
  job.model.context = 16;
  job.pipelines = pipelines;
  job.micro_batches = micro_batches;
  job.micro_batch_sequences = 1;
  return job;
}

TEST(RandomTokens, EveryMicroBatchOfFourStepsIsAnotherOneAndThenTheyComeAgain) {
  for (const auto& [pipelines, micro_batches] :
       std::vector<std::pair<uint32_t, uint32_t>>{{1, 1}, {1, 16}, {2, 3}}) {
    const BatchSource source = random_tokens(job_of(pipelines, micro_batches));
    std::set<std::vector<int32_t>> seen;
    for (uint64_t step = 0; step < 4; ++step)
      for (uint32_t j = 0; j < pipelines * micro_batches; ++j) {
        const auto batch = source.training(Step(step), MicroBatchIndex(j));
        ASSERT_TRUE(batch);
        EXPECT_TRUE(seen.insert(batch->tokens).second) << "step " << step << ", micro-batch " << j;
        EXPECT_EQ(source.training(Step(step + 4), MicroBatchIndex(j))->tokens, batch->tokens);
      }
  }
}

TEST(Unlike, TellsLossesThatDifferAndPayloadThatDoesNotGoByNccl) {
  const std::string nccl = "payload goes from device to device by NCCL 2.28.9";
  const std::string staged = "FOR TESTING ONLY: payload goes through host memory, since";
  EXPECT_EQ(unlike(10.97, 10.97, nccl), "");
  EXPECT_EQ(unlike(10.97, 10.975, nccl), "");
  EXPECT_NE(unlike(10.97, 10.99, nccl), "");
  EXPECT_NE(unlike(10.97, 10.95, nccl), "");
  EXPECT_NE(unlike(10.97, std::numeric_limits<double>::quiet_NaN(), nccl), "");
  EXPECT_NE(unlike(std::numeric_limits<double>::quiet_NaN(), 10.97, nccl), "");
  EXPECT_NE(unlike(10.97, 10.97, staged), "");
  EXPECT_NE(unlike(10.97, 10.97, staged + " NCCL was not found"), "");
  EXPECT_NE(unlike(10.97, 10.97, ""), "");
}

}  // namespace
}  // namespace holdfast::bench
