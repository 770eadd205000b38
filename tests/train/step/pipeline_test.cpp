// Training in stages: in reproducible mode nothing of how a model is split, nor of who is alive, is seen
// in the numbers.
#include <gtest/gtest.h>

#include <algorithm>
#include <barrier>
#include <cmath>
#include <set>

#include "tests/train/step/pipeline_harness.h"
#include "train/comm/gloo_communicator.h"

namespace holdfast::train {
namespace {

void expect_same(const PipelineRun& run, const PipelineRun& whole, const std::string& what) {
  EXPECT_EQ(run.losses, whole.losses) << what;
  for (size_t step = 0; step < whole.steps.size(); ++step) {
    EXPECT_EQ(run.steps[step].load_balance_loss, whole.steps[step].load_balance_loss) << what;
    EXPECT_EQ(run.steps[step].z_loss, whole.steps[step].z_loss) << what;
    EXPECT_EQ(run.steps[step].popularity, whole.steps[step].popularity) << what;
    EXPECT_EQ(run.steps[step].tokens, whole.steps[step].tokens) << what;
    EXPECT_EQ(run.steps[step].dropped, whole.steps[step].dropped) << what;
  }
}

std::string name_of(const conf::JobConfig& job, const LanesByStage& lanes) {
  std::string name = "D " + std::to_string(job.pipelines) + " S " + std::to_string(job.stages);
  for (const auto& stage : lanes) {
    name += " |";
    for (const uint32_t d : stage) name += " " + std::to_string(d);
  }
  return name;
}

TEST(Pipeline, GivesTheBitsOfOneStageInReproducibleMode) {
  const conf::JobConfig one = pipeline_job(1, 1);
  const PipelineRun whole = fresh_pipeline(one, all_lanes(one), 6);
  ASSERT_EQ(whole.losses.held_out.size(), 2U);
  for (const auto& [pipelines, stages] :
       {std::pair{2, 1}, {1, 2}, {2, 2}, {1, 3}, {4, 2}, {2, 3}, {2, 4}, {1, 4}, {8, 2}}) {
    const conf::JobConfig job = pipeline_job(pipelines, stages);
    expect_same(fresh_pipeline(job, all_lanes(job), 6), whole, name_of(job, all_lanes(job)));
  }
}

TEST(Pipeline, GivesTheBitsOfOneStageOverFiftySteps) {
  const auto job_of = [](uint32_t pipelines, uint32_t stages) {
    conf::JobConfig job = pipeline_job(pipelines, stages);
    job.steps = 50;
    return job;
  };
  const conf::JobConfig one = job_of(2, 1);
  const PipelineRun whole = fresh_pipeline(one, all_lanes(one), 50);
  EXPECT_LT(whole.losses.training.back(), 0.8 * whole.losses.training.front());
  for (const uint32_t stages : {2U, 4U}) {
    const conf::JobConfig job = job_of(2, stages);
    expect_same(fresh_pipeline(job, all_lanes(job), 50), whole, name_of(job, all_lanes(job)));
  }
}

TEST(Pipeline, GivesTheBitsOfOneStageWithNineMicroBatchesToo) {
  const conf::JobConfig one = pipeline_job(1, 1, true, 9);
  const PipelineRun whole = fresh_pipeline(one, all_lanes(one), 4);
  const conf::JobConfig job = pipeline_job(3, 3, true, 3);
  expect_same(fresh_pipeline(job, all_lanes(job), 4), whole, "D 3 S 3");
}

// One dead lane, two at different stages, two at one, all but one of a stage; few and many micro-batches in
// flight.
TEST(Pipeline, DeadLanesLeaveNoTraceInReproducibleMode) {
  const conf::JobConfig one = pipeline_job(1, 1, true, 9);
  const PipelineRun whole = fresh_pipeline(one, all_lanes(one), 3);
  for (const uint32_t in_flight : {0U, 1U, 9U}) {
    conf::JobConfig two = pipeline_job(3, 2, true, 3), three = pipeline_job(3, 3, true, 3);
    two.micro_batches_in_flight = three.micro_batches_in_flight = in_flight;
    for (const LanesByStage& lanes :
         {LanesByStage{{0, 1, 2}, {0, 2}}, LanesByStage{{1, 2}, {0, 1, 2}},
          LanesByStage{{0, 1}, {1, 2}}, LanesByStage{{2}, {0, 1, 2}}, LanesByStage{{0, 1, 2}, {1}},
          LanesByStage{{0}, {1}}})
      expect_same(fresh_pipeline(two, lanes, 3), whole, name_of(two, lanes));
    for (const LanesByStage& lanes :
         {LanesByStage{{0, 1, 2}, {0, 2}, {0, 1, 2}}, LanesByStage{{0, 1}, {0, 1, 2}, {1, 2}},
          LanesByStage{{0, 1, 2}, {1}, {0, 2}}})
      expect_same(fresh_pipeline(three, lanes, 3), whole, name_of(three, lanes));
  }
}

// The same room for an expert, however many pipelines there are.
TEST(Pipeline, DropsTheSameChoicesInCapacityMode) {
  const auto job_of = [](uint32_t pipelines, uint32_t stages) {
    conf::JobConfig job = pipeline_job(pipelines, stages);
    job.routing = "capacity";
    job.capacity_factor = 0.7;
    job.slots_per_worker = 4 / pipelines;
    return job;
  };
  const conf::JobConfig one = job_of(1, 1);
  const PipelineRun whole = fresh_pipeline(one, all_lanes(one), 4);
  EXPECT_GT(whole.steps[0].tokens_dropped, 0U);
  for (const auto& [pipelines, stages] : {std::pair{1, 2}, {2, 2}, {4, 3}}) {
    const conf::JobConfig job = job_of(pipelines, stages);
    expect_same(fresh_pipeline(job, all_lanes(job), 4), whole, name_of(job, all_lanes(job)));
  }
  const conf::JobConfig job = job_of(4, 2);
  const LanesByStage alive = {{0, 2, 3}, {1, 2}};
  expect_same(fresh_pipeline(job, alive, 4), whole, name_of(job, alive));
}

TEST(Pipeline, TheSameTopologyTwiceGivesTheSameBitsInDefaultMode) {
  const conf::JobConfig job = pipeline_job(2, 2, false);
  for (const LanesByStage& lanes : {all_lanes(job), LanesByStage{{0, 1}, {1}}}) {
    const PipelineRun once = fresh_pipeline(job, lanes, 6);
    expect_same(fresh_pipeline(job, lanes, 6), once, name_of(job, lanes));
  }
}

// How a model is split changes no sum: only how many lanes share a stage does. The same on accelerators
// (stages_cuda_test), where nothing else tells a fault from rounding after a dozen steps.
TEST(Pipeline, DefaultModeGivesTheBitsOfOneStageWithTheSamePipelines) {
  for (const uint32_t pipelines : {1U, 2U}) {
    const conf::JobConfig one = pipeline_job(pipelines, 1, false);
    const PipelineRun whole = fresh_pipeline(one, all_lanes(one), 20);
    for (const uint32_t stages : {2U, 4U}) {
      const conf::JobConfig job = pipeline_job(pipelines, stages, false);
      expect_same(fresh_pipeline(job, all_lanes(job), 20), whole, name_of(job, all_lanes(job)));
    }
  }
}

TEST(Pipeline, DefaultModeAgreesWithOneStageUpToRounding) {
  const conf::JobConfig one = pipeline_job(1, 1, false), four = pipeline_job(2, 4, false);
  const PipelineRun whole = fresh_pipeline(one, all_lanes(one), 5);
  const PipelineRun run = fresh_pipeline(four, {{0, 1}, {1}, {0, 1}, {0}}, 5);
  for (size_t step = 0; step < 5; ++step)
    EXPECT_NEAR(run.losses.training[step], whole.losses.training[step],
                1e-3 * whole.losses.training[step]);
}

TEST(Pipeline, Learns) {
  const conf::JobConfig job = pipeline_job(2, 2, false);
  const PipelineRun run = fresh_pipeline(job, all_lanes(job), 40);
  EXPECT_NEAR(run.losses.training.front(), std::log(16.0), 0.15);
  EXPECT_LT(run.losses.training.back(), 0.8 * run.losses.training.front());
}

// The ledger's promise: every micro-batch of the step once at every stage.
TEST(Pipeline, EveryMicroBatchIsReportedOnceByEveryStage) {
  const conf::JobConfig job = pipeline_job(4, 3);
  const LanesByStage lanes = {{0, 1, 2, 3}, {1, 3}, {0, 1, 2}};
  const PipelineRun run = fresh_pipeline(job, lanes, 1);
  const Plan plan = *plan_of_job(job, lanes);
  uint32_t member = 0;
  for (uint32_t s = 0; s < 3; ++s) {
    std::set<uint32_t> ran;
    for (uint32_t lane = 0; lane < lanes[s].size(); ++lane, ++member) {
      const auto& mine = run.members[member][0].micro_batches;
      ran.insert(mine.begin(), mine.end());
      std::vector<uint32_t> planned;
      for (const MicroBatchIndex j : micro_batches_of(plan, s, lane)) planned.push_back(j.value);
      EXPECT_EQ(mine, planned) << "member " << member;
      EXPECT_GT(run.members[member][0].bytes_exchanged, 0U);
    }
    EXPECT_EQ(ran.size(), 8U) << "stage " << s;
  }
}

// A lane of the second stage is lost after three steps, its peers adopt its shards; later it is back, and a
// lane of the first stage has moved to the second.
TEST(Pipeline, ALostAndAMovedLaneLeaveNoTraceInReproducibleMode) {
  const conf::JobConfig job = pipeline_job(2, 2);
  const PipelineRun unbroken = fresh_pipeline(job, all_lanes(job), 9);
  Group group(job, 4);
  Losses losses;
  StateVersion base;
  Epoch epoch{1, 0};
  const auto go_on = [&](const std::vector<LaneProcess*>& lanes, const LanesByStage& places,
                         const std::vector<Payload>& state, uint64_t steps) {
    epoch = epoch.next();
    const ViewPlan plan = plan_stages(job, places, base, epoch);
    for (uint32_t l = 0; l < lanes.size(); ++l) open_lane(*lanes[l], plan, l, state);
    const PipelineRun run = run_pipeline(lanes, base.version.value, steps);
    const auto append = [](std::vector<double>& to, const std::vector<double>& from) {
      to.insert(to.end(), from.begin(), from.end());
    };
    append(losses.training, run.losses.training);
    append(losses.norms, run.losses.norms);
    append(losses.held_out, run.losses.held_out);
    base = {Version(base.version.value + steps), epoch};
    return whole_state(lanes, base.version);
  };
  const std::vector<LaneProcess*> all = group.all();
  std::vector<Payload> state = go_on(all, {{0, 1}, {0, 1}}, {}, 3);
  state = go_on({all[0], all[1], all[3]}, {{0, 1}, {1}}, state, 3);
  go_on({all[1], all[3], all[0]}, {{1}, {0, 1}}, state, 3);
  EXPECT_EQ(losses, unbroken.losses);
}

// ---- the end of a view ----------------------------------------------------------------------------

struct AfterLoss {
  uint32_t calls = 0;
  Version version;
};

// What all members hold after member `lost` disappeared in the n-th thing that it did with others in a step
// with evaluation.
AfterLoss lose_in(const conf::JobConfig& job, const LanesByStage& lanes, uint32_t lost, uint32_t n) {
  const ViewPlan plan = plan_stages(job, lanes);
  const auto count = static_cast<uint32_t>(plan.coordinates.size());
  Group group(job, count);
  for (uint32_t l = 0; l < count; ++l) open_lane(*group.processes[l], plan, l);
  std::vector<AfterLoss> after(count);
  std::barrier<> all_have_stepped(count);  // a stage may go on while another still makes its weights
  run_losing(group.all(), [&](LaneProcess& lane, LosingComm& comm, uint32_t l) {
    CHECK(lane.trainer.run_step(comm, Step(0)).has_value());
    all_have_stepped.arrive_and_wait();
    comm.lose_at(l == lost ? n : 0);
    const auto done = lane.trainer.run_step(comm, Step(1));
    CHECK(done.has_value() == (n == 0));
    if (!done)
      CHECK(done.error().code == (l == lost ? ErrorCode::kCommAborted : ErrorCode::kCommPeerLost),
            "{}", done.error().to_string());
    after[l] = {comm.calls(), lane.trainer.current().version};
    const auto held = lane.trainer.held();
    CHECK(held.front().state.version == after[l].version);
    CHECK(held.front().shards.size() == lane.trainer.owned().size());
    const auto finished = lane.trainer.take_finished();
    CHECK(finished.has_value() == (n != 0 && after[l].version == Version(2)));
  });
  for (const AfterLoss& one : after) CHECK(one.version == after[lost].version);
  return after[lost];
}

TEST(Pipeline, AMemberLostAnywhereInAStepEndsItWithAnErrorOnAll) {
  conf::JobConfig job = pipeline_job(2, 2, false);
  job.evaluate_every = 2;
  const LanesByStage lanes = {{0, 1}, {1}};
  for (const uint32_t lost : {0U, 2U}) {
    const uint32_t calls = lose_in(job, lanes, lost, 0).calls;
    ASSERT_GT(calls, 50U);
    std::vector<uint64_t> versions;
    for (uint32_t n = 1; n <= calls; ++n)
      versions.push_back(lose_in(job, lanes, lost, n).version.value);
    EXPECT_TRUE(std::is_sorted(versions.begin(), versions.end()));
    EXPECT_EQ(versions.front(), 1U);
    EXPECT_EQ(versions.back(), 2U) << "lost in the evaluation: the version exists";
  }
}

// Wherever in a step a member is lost: the others adopt its shards and take its micro-batches over, and the
// losses are those of the unbroken run.
TEST(Pipeline, ALossAnywhereInAStepLeavesNoTraceInReproducibleMode) {
  conf::JobConfig job = pipeline_job(2, 2);
  job.evaluate_every = 2;
  const PipelineRun unbroken = fresh_pipeline(job, all_lanes(job), 4);
  const std::pair<uint32_t, LanesByStage> table[] = {{0, {{1}, {0, 1}}}, {3, {{0, 1}, {0}}}};
  for (const auto& [lost, after] : table) {
    std::set<uint64_t> bases;
    for (uint32_t n = 1;; n += 4) {
      Group group(job, 4);
      const ViewPlan plan = plan_stages(job, all_lanes(job));
      for (uint32_t l = 0; l < 4; ++l) open_lane(*group.processes[l], plan, l);
      std::barrier<> all_have_stepped(4);
      bool ended = false;
      run_losing(group.all(), [&, lost = lost](LaneProcess& lane, LosingComm& comm, uint32_t l) {
        CHECK(lane.trainer.run_step(comm, Step(0)).has_value());
        all_have_stepped.arrive_and_wait();
        comm.lose_at(l == lost ? n : 0);
        const bool done = lane.trainer.run_step(comm, Step(1)).has_value();
        if (l == lost) ended = done;
      });
      if (ended) break;  // it does no more than n things in a step
      const Version base = group.processes[lost]->trainer.current().version;
      bases.insert(base.value);
      std::vector<LaneProcess*> survivors = group.all();
      const std::vector<Payload> state = whole_state(survivors, base);
      survivors.erase(survivors.begin() + lost);
      const ViewPlan next = plan_stages(job, after, {base, {1, 1}}, {1, 2});
      for (uint32_t l = 0; l < 3; ++l) open_lane(*survivors[l], next, l, state);
      const Losses rest = run_pipeline(survivors, base.value, 4 - base.value).losses;
      const auto from = [&](const std::vector<double>& all) {
        return std::vector<double>(all.begin() + static_cast<long>(base.value), all.end());
      };
      ASSERT_EQ(rest.training, from(unbroken.losses.training)) << "member " << lost << ", " << n;
      ASSERT_EQ(rest.norms, from(unbroken.losses.norms)) << "member " << lost << ", " << n;
      ASSERT_EQ(rest.held_out.back(), unbroken.losses.held_out.back()) << "member " << lost << ", " << n;
    }
    EXPECT_EQ(bases, (std::set<uint64_t>{1, 2}));
  }
}

TEST(Pipeline, AnAbortedStepMakesNoVersion) {
  const conf::JobConfig job = pipeline_job(2, 2);
  const ViewPlan plan = plan_stages(job, all_lanes(job));
  Group group(job, 4);
  for (uint32_t l = 0; l < 4; ++l) open_lane(*group.processes[l], plan, l);
  run_lanes(group.all(), [&](LaneProcess& lane, ViewCommunicator& comm, uint32_t) {
    CHECK(lane.trainer.run_step(comm, Step(0)).has_value());
    lane.abort.set();
    const auto done = lane.trainer.run_step(comm, Step(1));
    CHECK(!done.has_value() && done.error().code == ErrorCode::kCommAborted);
  });
  for (const auto& lane : group.processes) {
    EXPECT_EQ(lane->trainer.current().version, Version(1));
    EXPECT_EQ(lane->trainer.held().size(), 1U);
  }
}

TEST(Pipeline, AViewThatCannotTrainIsRefusedWithWhatIsWrong) {
  const conf::JobConfig job = pipeline_job(2, 2);
  ViewPlan plan = plan_stages(job, all_lanes(job));
  const auto said = [&](std::vector<uint32_t> coordinates, std::vector<uint32_t> stages) {
    LaneProcess lane(job);
    plan.coordinates = std::move(coordinates);
    plan.stages = std::move(stages);
    const Status opened = lane.trainer.open_view(plan.view_of(0));
    EXPECT_EQ(opened.error().code, ErrorCode::kPlanImpossible);
    return opened.error().message;
  };
  EXPECT_EQ(said({0, 1}, {0, 0}), "stage 1 has no live lane");
  EXPECT_EQ(said({0, 1}, {}), "stage 1 has no live lane");
  EXPECT_EQ(said({0, 0}, {1, 0}),
            "member 1 is lane 0:0: members must be in the order of 2 stages and their pipelines");
  EXPECT_EQ(said({0, 0}, {0, 2}),
            "member 1 is lane 0:2: members must be in the order of 2 stages and their pipelines");
}

// ---- progress and transport -----------------------------------------------------------------------

TEST(Pipeline, ProgressTellsTheRoundOfThePlan) {
  conf::JobConfig job = pipeline_job(1, 2);
  job.evaluate_micro_batches = 0;
  const Plan plan = *plan_of_job(job, all_lanes(job));
  std::vector<std::set<uint32_t>> seen(2);
  std::vector<std::unique_ptr<LaneProcess>> lanes;
  const ViewPlan view = plan_stages(job, all_lanes(job));
  for (uint32_t l = 0; l < 2; ++l) {
    lanes.push_back(std::make_unique<LaneProcess>(
        job, DataFingerprint{}, [&seen, l](Step step, uint32_t round, bool) {
          if (step == Step(1)) seen[l].insert(round);
        }));
    open_lane(*lanes[l], view, l);
  }
  run_pipeline({lanes[0].get(), lanes[1].get()}, 0, 2);
  for (uint32_t s = 0; s < 2; ++s) {
    std::set<uint32_t> rounds;
    for (uint32_t r = 0; r < plan.stages[s].rounds.size(); ++r) rounds.insert(r);
    EXPECT_EQ(seen[s], rounds) << "stage " << s;
  }
}

TEST(Pipeline, TrainsOverGloo) {
  const conf::JobConfig job = pipeline_job(2, 2);
  const LanesByStage lanes = {{0, 1}, {1}};
  const ViewPlan plan = plan_stages(job, lanes);
  std::vector<std::unique_ptr<CommunicatorFactory>> factories;
  std::vector<std::string> addresses;
  for (uint32_t l = 0; l < 3; ++l) {
    factories.push_back(std::move(*make_gloo_factory("127.0.0.1")));
    addresses.push_back(*factories.back()->prepare(l, 3));
  }
  std::vector<std::unique_ptr<ViewCommunicator>> comms(3);
  std::vector<std::thread> threads;
  for (uint32_t l = 0; l < 3; ++l)
    threads.emplace_back([&, l] {
      auto made = factories[l]->connect(addresses, 20'000, 20'000);
      CHECK(made.has_value(), "{}", made.error().to_string());
      comms[l] = std::move(*made);
    });
  for (std::thread& thread : threads) thread.join();
  Group group(job, 3);
  for (uint32_t l = 0; l < 3; ++l) open_lane(*group.processes[l], plan, l);
  expect_same(run_pipeline(group.all(), 0, 4, std::move(comms)), fresh_pipeline(job, lanes, 4),
              "Gloo against threads");
}

}  // namespace
}  // namespace holdfast::train
