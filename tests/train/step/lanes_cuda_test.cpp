// Lanes on accelerators, as threads: over host memory where they share one, by NCCL where each has
// its own, to the same bits; and a view that ends in the middle of a reduction.
#include <atomic>
#include <latch>
#include <mutex>
#include <thread>

#include "tests/train/step/cuda_lanes.h"

namespace holdfast::train {
namespace {

std::vector<double> run(std::vector<uint32_t> ordinals, uint64_t steps, std::string& path) {
  return train_lanes(cuda_job(), std::move(ordinals), steps, path).losses();
}

TEST(CudaLanes, ThatShareADeviceTrainOverHostMemory) {
  if (const std::string why = missing_devices(1); !why.empty()) GTEST_SKIP() << why;
  std::string path;
  const std::vector<double> losses = run({0, 0}, 10, path);
  EXPECT_EQ(path.rfind("FOR TESTING ONLY", 0), 0U) << path;
  EXPECT_LT(losses.back(), losses.front());
}

TEST(CudaLanes, OverNcclGiveTheBitsOfThoseOverHostMemory) {
  if (const std::string why = missing_devices(2); !why.empty()) GTEST_SKIP() << why;
  std::string staged, direct;
  const std::vector<double> losses = run({0, 0}, 10, staged);
  EXPECT_EQ(run({0, 1}, 10, direct), losses);
  EXPECT_NE(direct.find("NCCL"), std::string::npos) << direct;
}

// That its exchanges are given up then is its own doing, and nothing to report.
TEST(CudaLanes, WhoseStepFailsSayWhy) {
  if (const std::string why = missing_devices(2); !why.empty()) GTEST_SKIP() << why;
  const conf::JobConfig job = cuda_job();
  const ViewPlan plan = plan_view(job, {0, 1});
  const auto comms = make_in_process_group(2, 60'000);
  AbortWord* aborts[2] = {};
  std::latch begun(2);  // the view would not end for one that is still on its way into it
  on_threads(2, [&](uint32_t l) {
    BatchSource text = made_up_text(job);
    if (l == 1)
      text.training = [](Step, MicroBatchIndex) -> Result<MicroBatch> {
        return fail(ErrorCode::kFileIo, "the disk is gone");
      };
    CudaLane lane(job, l, l, [](Step, uint32_t, bool) {}, std::move(text));
    aborts[l] = &lane.abort;
    lane.begin(plan, *comms[l]);
    begun.arrive_and_wait();
    const auto failed = lane.trainer->run_step(*comms[l], Step(0));
    ASSERT_FALSE(failed);
    if (l == 1) {
      EXPECT_EQ(failed.error().code, ErrorCode::kFileIo) << failed.error().to_string();
      for (AbortWord* abort : aborts) abort->set();  // as daemons end the view for the others
      for (const auto& comm : comms) comm->abort();
    } else {
      EXPECT_EQ(failed.error().code, ErrorCode::kCommAborted) << failed.error().to_string();
    }
    comms[l]->abort();
  });
}

// Lane 1 stands still after its last exchange of the rounds, so lane 0 comes as far as the
// reduction, where its device waits for lane 1. The guard of its payload tells so, from a thread of
// its own; then the view ends for both, as a worker's daemon would end it.
TEST(CudaLanes, WhoseViewEndsInTheMiddleOfAReduceMakeNoVersionAndGoOn) {
  if (const std::string why = missing_devices(2); !why.empty()) GTEST_SKIP() << why;
  const conf::JobConfig job = cuda_job();
  std::string path;
  const std::vector<double> unbroken = run({0, 1}, 5, path);

  ViewPlan plan = plan_view(job, {0, 1});
  const auto first = make_in_process_group(2, 60'000), second = make_in_process_group(2, 60'000);
  std::atomic<bool> stands_still = false;
  std::atomic<int> waits = 0;  // of lane 0's device, told since then
  // Of lane 1: how often it told of its progress in this step, and until when it is in the rounds.
  // After them come: the update begins, it may write, it takes each shard, it is enqueued.
  uint64_t calls = 0, calls_of_rounds = 0;
  std::latch ended(1), both_ended(2);
  std::once_flag once;
  AbortWord* aborts[2] = {};
  std::thread::id working[2];
  const auto on_progress = [&](uint32_t lane) {
    if (lane == 1 && working[1] == std::this_thread::get_id()) {
      if (++calls != calls_of_rounds) return;
      stands_still = true;
      ended.wait();
    }
    if (lane == 0 && working[0] != std::this_thread::get_id() && stands_still && ++waits == 20) {
      for (AbortWord* abort : aborts) abort->set();
      for (const auto& comm : first) comm->abort();
      std::call_once(once, [&] { ended.count_down(); });
    }
  };
  std::vector<std::vector<double>> losses(2);
  on_threads(2, [&](uint32_t l) {
    working[l] = std::this_thread::get_id();
    CudaLane lane(job, l, l, [&, l](Step, uint32_t, bool) { on_progress(l); });
    aborts[l] = &lane.abort;
    lane.begin(plan, *first[l]);
    losses[l].push_back(lane.step(*first[l], 0).loss);
    if (l == 1) calls = 0;
    losses[l].push_back(lane.step(*first[l], 1).loss);
    if (l == 1) {
      calls_of_rounds = calls - lane.trainer->owned().size() - 3;
      calls = 0;
    }
    const auto aborted = lane.trainer->run_step(*first[l], Step(2));
    if (l == 0) std::call_once(once, [&] { ended.count_down(); });
    EXPECT_FALSE(aborted) << "lane " << l;
    if (!aborted) {
      EXPECT_EQ(aborted.error().code, ErrorCode::kCommAborted) << aborted.error().to_string();
    }
    EXPECT_EQ(lane.trainer->current(), (StateVersion{Version(2), plan.epoch}));
    EXPECT_EQ(lane.trainer->held().front().state.version, Version(2));
    EXPECT_FALSE(lane.trainer->take_finished());
    if (l == 1) calls_of_rounds = 0;
    both_ended.arrive_and_wait();

    ViewPlan after = plan;
    after.base = {Version(2), plan.epoch};
    after.epoch.number = 2;
    lane.begin(after, *second[l]);
    for (uint64_t s = 2; s < 5; ++s) losses[l].push_back(lane.step(*second[l], s).loss);
  });
  EXPECT_EQ(losses[0], unbroken);
  EXPECT_EQ(losses[1], unbroken);
}

}  // namespace
}  // namespace holdfast::train
