// Lanes on accelerators, as threads of this process.
#pragma once

#include <gtest/gtest.h>

#include <barrier>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/cuda_devices.h"
#include "tests/train/step/lanes_harness.h"
#include "train/worker/step_parts.h"

namespace holdfast::train {

inline conf::JobConfig cuda_job() {
  conf::JobConfig job = small_job(false);
  job.model.width = 128;
  job.model.expert_width = 64;
  job.model.context = 64;
  job.evaluate_every = 0;
  job.evaluate_micro_batches = 0;
  return job;
}

// A lane lives on one thread, and so does its device.
struct CudaLane {
  CudaLane(const conf::JobConfig& job, uint32_t ordinal, uint32_t lane_number, ProgressFn progress)
      : CudaLane(job, ordinal, lane_number, std::move(progress), made_up_text(job)) {}
  CudaLane(const conf::JobConfig& job, uint32_t ordinal, uint32_t lane_number, ProgressFn progress,
           BatchSource text)
      : number(lane_number) {
    auto device = kernels::Cuda::open(ordinal);
    CHECK(device.has_value(), "{}", device.error().to_string());
    trainer.emplace(std::move(*device), job, std::move(text), abort, std::move(progress));
  }
  void begin(const ViewPlan& plan, ViewCommunicator& comm, const std::vector<Payload>& state = {}) {
    begin_as(number, plan, comm, state);
  }
  // As a member that has another number in this view.
  void begin_as(uint32_t member, const ViewPlan& plan, ViewCommunicator& comm,
                const std::vector<Payload>& state = {}) {
    abort.clear();
    open_trainer(*trainer, plan, member, state);
    const Status made = trainer->materialize(comm);
    CHECK(made.has_value(), "{}", made.error().to_string());
  }
  StepDone step(ViewCommunicator& comm, uint64_t step) {
    auto done = trainer->run_step(comm, Step(step));
    CHECK(done.has_value(), "{}", done.error().to_string());
    return *done;
  }
  const uint32_t number;
  AbortWord abort;
  std::optional<LaneTrainer<CudaBackend>> trainer;
};

inline void on_threads(uint32_t count, const std::function<void(uint32_t)>& body) {
  std::vector<std::thread> threads;
  for (uint32_t lane = 0; lane < count; ++lane) threads.emplace_back([&, lane] { body(lane); });
  for (std::thread& thread : threads) thread.join();
}

// What lane 0 of a run reported, or of all stages together where they report by themselves; the losses are the
// same on every lane of a stage, which is checked.
struct LanesRun {
  std::vector<StepDone> steps;
  std::vector<double> losses() const {
    std::vector<double> all;
    for (const StepDone& step : steps) all.push_back(step.loss);
    return all;
  }
};

// A member of the view on each of these devices; `path` becomes what the log would say.
inline LanesRun train_members(const conf::JobConfig& job, const ViewPlan& plan,
                              const std::vector<uint32_t>& ordinals, uint64_t steps,
                              std::string& path) {
  const auto lanes = static_cast<uint32_t>(ordinals.size());
  CHECK(plan.coordinates.size() == lanes);
  auto comms = make_in_process_group(lanes, 60'000);
  std::vector<LanesRun> runs(lanes);
  std::barrier<> all_done(lanes);  // a stage may be done before others have taken what it handed over
  on_threads(lanes, [&](uint32_t l) {
    CudaLane lane(job, ordinals[l], l, [](Step, uint32_t, bool) {});
    lane.begin(plan, *comms[l]);
    if (l == 0) path = lane.trainer->payload_path();
    for (uint64_t s = 0; s < steps; ++s) runs[l].steps.push_back(lane.step(*comms[l], s));
    all_done.arrive_and_wait();
  });
  for (const LanesRun& one : runs)
    if (lanes > 1) {
      EXPECT_GT(one.steps.front().bytes_exchanged, 0U);
    }
  LanesRun run;
  for (uint64_t s = 0; s < steps; ++s) {
    std::map<uint32_t, StepDone> by_stage;
    for (const LanesRun& one : runs) {
      const StepDone& done = one.steps[s];
      const uint32_t stage = done.of_stage ? done.of_stage->stage : 0;
      EXPECT_EQ(by_stage.try_emplace(stage, done).first->second.loss, done.loss);
    }
    const StepDone& first = runs[0].steps[s];
    run.steps.push_back(first.of_stage ? whole_step(by_stage) : first);
  }
  return run;
}

// Of one stage.
inline LanesRun train_lanes(const conf::JobConfig& job, const std::vector<uint32_t>& ordinals,
                            uint64_t steps, std::string& path) {
  std::vector<uint32_t> coordinates;
  for (uint32_t l = 0; l < ordinals.size(); ++l) coordinates.push_back(l);
  return train_members(job, plan_view(job, coordinates), ordinals, steps, path);
}

}  // namespace holdfast::train
