// Stages that clip by their own norm (clip_by = "stage") wait for no other: what they wait for is their data.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <future>
#include <set>

#include "tests/train/step/pipeline_harness.h"
#include "train/comm/gloo_communicator.h"

namespace holdfast::train {
namespace {

conf::JobConfig staggered_job(uint32_t pipelines, uint32_t stages, bool reproducible = true) {
  conf::JobConfig job = pipeline_job(pipelines, stages, reproducible);
  job.optimizer.clip_by = "stage";
  job.optimizer.clip = 0.1;  // below every norm here: how stages are clipped is seen in the numbers
  return job;
}

std::vector<std::unique_ptr<ViewCommunicator>> over_gloo(uint32_t size, int64_t timeout_ms) {
  std::vector<std::unique_ptr<CommunicatorFactory>> factories;
  std::vector<std::string> addresses;
  for (uint32_t l = 0; l < size; ++l) {
    factories.push_back(std::move(*make_gloo_factory("127.0.0.1")));
    addresses.push_back(*factories.back()->prepare(l, size));
  }
  std::vector<std::unique_ptr<ViewCommunicator>> comms(size);
  std::vector<std::thread> threads;
  for (uint32_t l = 0; l < size; ++l)
    threads.emplace_back([&, l] {
      auto made = factories[l]->connect(addresses, 20'000, timeout_ms);
      CHECK(made.has_value(), "{}", made.error().to_string());
      comms[l] = std::move(*made);
    });
  for (std::thread& thread : threads) thread.join();
  return comms;
}

uint64_t newest(const LaneProcess& lane) {
  return lane.trainer.held().front().state.version.value;
}

void expect_same(const PipelineRun& run, const PipelineRun& other, const std::string& what) {
  EXPECT_EQ(run.losses, other.losses) << what;
  for (size_t step = 0; step < other.steps.size(); ++step) {
    EXPECT_EQ(run.steps[step].load_balance_loss, other.steps[step].load_balance_loss) << what;
    EXPECT_EQ(run.steps[step].z_loss, other.steps[step].z_loss) << what;
    EXPECT_EQ(run.steps[step].popularity, other.steps[step].popularity) << what;
    EXPECT_EQ(run.steps[step].dropped, other.steps[step].dropped) << what;
  }
}

// ---- numbers --------------------------------------------------------------------------------------

// What each stage is clipped by depends on how layers are split, and on nothing else.
TEST(Staggered, WhoIsAliveAndHowManyPipelinesLeaveNoTraceInReproducibleMode) {
  for (const uint32_t stages : {2U, 4U}) {
    const conf::JobConfig one = staggered_job(1, stages);
    const PipelineRun whole = fresh_pipeline(one, all_lanes(one), 6);
    ASSERT_EQ(whole.losses.held_out.size(), 2U);
    EXPECT_GT(*std::min_element(whole.losses.norms.begin(), whole.losses.norms.end()), 0.1);
    const conf::JobConfig two = staggered_job(2, stages), four = staggered_job(4, stages);
    LanesByStage fewer = all_lanes(four);
    fewer[0] = {1, 3};
    fewer[stages - 1] = {2};
    expect_same(fresh_pipeline(two, all_lanes(two), 6), whole, "D 2");
    expect_same(fresh_pipeline(four, fewer, 6), whole, "D 4, lanes missing");
  }
}

TEST(Staggered, IsAnotherRunThanWithOneNormForAll) {
  conf::JobConfig job = staggered_job(2, 2);
  const PipelineRun by_stage = fresh_pipeline(job, all_lanes(job), 3);
  job.optimizer.clip_by = "global";
  const PipelineRun global = fresh_pipeline(job, all_lanes(job), 3);
  EXPECT_EQ(by_stage.losses.training[0], global.losses.training[0]);
  EXPECT_EQ(by_stage.steps[0].popularity, global.steps[0].popularity);
  EXPECT_NEAR(by_stage.losses.norms[0], global.losses.norms[0], 1e-12) << "of the same gradients";
  EXPECT_NE(by_stage.losses.training[2], global.losses.training[2]);
}

TEST(Staggered, OneStageGivesTheSameNumbersByEitherNorm) {
  conf::JobConfig job = staggered_job(2, 1);
  const PipelineRun by_stage = fresh_pipeline(job, all_lanes(job), 4);
  EXPECT_FALSE(by_stage.steps[0].of_stage);
  job.optimizer.clip_by = "global";
  expect_same(by_stage, fresh_pipeline(job, all_lanes(job), 4), "S 1");
}

TEST(Staggered, WithoutClippingStagesGiveTheBitsOfOneStage) {
  conf::JobConfig one = pipeline_job(2, 1), four = staggered_job(2, 4);
  one.optimizer.clip = four.optimizer.clip = 0;
  const PipelineRun whole = fresh_pipeline(one, all_lanes(one), 6);
  const PipelineRun run = fresh_pipeline(four, {{0, 1}, {1}, {0, 1}, {0}}, 6);
  EXPECT_EQ(run.losses.training, whole.losses.training);
  EXPECT_EQ(run.losses.held_out, whole.losses.held_out);
  for (size_t step = 0; step < 6; ++step)
    EXPECT_NEAR(run.losses.norms[step], whole.losses.norms[step], 1e-12);
}

TEST(Staggered, TheSameTopologyTwiceGivesTheSameBitsInDefaultMode) {
  conf::JobConfig job = staggered_job(2, 2, false);
  job.routing = "capacity";
  job.capacity_factor = 0.7;
  const LanesByStage lanes = {{0, 1}, {1}};
  const PipelineRun once = fresh_pipeline(job, lanes, 6);
  EXPECT_GT(once.steps[0].tokens_dropped, 0U);
  expect_same(fresh_pipeline(job, lanes, 6), once, "again");
}

TEST(Staggered, LearnsOverGloo) {
  const conf::JobConfig job = staggered_job(2, 2, false);
  const ViewPlan plan = plan_stages(job, all_lanes(job));
  Group group(job, 4);
  for (uint32_t l = 0; l < 4; ++l) open_lane(*group.processes[l], plan, l);
  const PipelineRun run = run_pipeline(group.all(), 0, 40, over_gloo(4, 20'000));
  EXPECT_LT(run.losses.training.back(), 0.8 * run.losses.training.front());
  expect_same(fresh_pipeline(job, all_lanes(job), 40), run, "threads against Gloo");
}

// First moments after the first update are (1 - beta1) times the gradient as it was clipped: by hand, the
// norm of each stage's gradient, and what is left of it.
struct FirstMoments {
  std::vector<std::vector<double>> by_stage;
  std::vector<double> norms;  // as reported, by stage
};
FirstMoments first_moments(const conf::JobConfig& job) {
  const ViewPlan plan = plan_stages(job, all_lanes(job));
  Group group(job, static_cast<uint32_t>(plan.coordinates.size()));
  for (uint32_t l = 0; l < group.processes.size(); ++l) open_lane(*group.processes[l], plan, l);
  const PipelineRun run = run_pipeline(group.all(), 0, 1);
  FirstMoments moments{std::vector<std::vector<double>>(job.stages), std::vector<double>(job.stages)};
  for (uint32_t l = 0; l < group.processes.size(); ++l) {
    LaneProcess& lane = *group.processes[l];
    moments.norms[plan.stages[l]] = run.members[l][0].gradient_norm;
    for (const uint32_t shard : lane.trainer.owned()) {
      const Payload payload = read_state(lane.trainer, shard, Version(1));
      const auto* floats = reinterpret_cast<const float*>(payload.data());
      const size_t elements = payload.size() / sizeof(float) / 3;  // master, m, v
      for (size_t i = 0; i < elements; ++i)
        moments.by_stage[plan.stages[l]].push_back(floats[elements + i]);
    }
  }
  return moments;
}

double norm_of(const std::vector<double>& values) {
  double squares = 0;
  for (const double value : values) squares += value * value;
  return std::sqrt(squares);
}

TEST(Staggered, EachStageIsClippedByTheNormOfItsOwnGradient) {
  for (const bool reproducible : {false, true}) {
    conf::JobConfig job = staggered_job(2, 2, reproducible);
    job.optimizer.clip = 0;
    const FirstMoments raw = first_moments(job);
    std::vector<double> norms;
    for (uint32_t s = 0; s < 2; ++s) {
      norms.push_back(norm_of(raw.by_stage[s]) / (1 - job.optimizer.beta1));
      EXPECT_NEAR(raw.norms[s], norms[s], 1e-5 * norms[s]) << "stage " << s;
    }
    ASSERT_GT(std::abs(norms[0] - norms[1]), 1e-3);
    job.optimizer.clip = (norms[0] + norms[1]) / 2;  // one stage is clipped, the other is not
    const FirstMoments clipped = first_moments(job);
    for (uint32_t s = 0; s < 2; ++s) {
      const double scale = std::min(1.0, job.optimizer.clip / norms[s]);
      ASSERT_EQ(clipped.by_stage[s].size(), raw.by_stage[s].size());
      for (size_t i = 0; i < raw.by_stage[s].size(); ++i)
        ASSERT_NEAR(clipped.by_stage[s][i], scale * raw.by_stage[s][i], 1e-8)
            << "stage " << s << ", " << i;
    }
  }
}

// ---- the stagger ----------------------------------------------------------------------------------

uint32_t last_gradient_round(const Plan& plan, uint32_t stage) {
  uint32_t last = 0;
  for (uint32_t r = 0; r < plan.stages[stage].rounds.size(); ++r)
    if (plan.stages[stage].rounds[r].work == Work::kInputGradient) last = r;
  return last;
}

// Two lanes, one a stage; `reached` is told what each of them comes to.
struct Two {
  Two(const conf::JobConfig& job, std::function<void(uint32_t, Step, uint32_t)> reached) {
    const ViewPlan view = plan_stages(job, all_lanes(job));
    for (uint32_t l = 0; l < 2; ++l) {
      lanes.push_back(std::make_unique<LaneProcess>(
          job, DataFingerprint{},
          [reached, l](Step step, uint32_t round, bool) { reached(l, step, round); }));
      open_lane(*lanes[l], view, l);
    }
  }
  std::vector<LaneProcess*> all() { return {lanes[0].get(), lanes[1].get()}; }
  std::vector<std::unique_ptr<LaneProcess>> lanes;
};

// The last stage stands at its last round of the second step, which is W, until the first stage has run a round
// of the third.
TEST(Staggered, TheFirstStageBeginsItsNextStepBeforeTheLastHasUpdated) {
  conf::JobConfig job = staggered_job(1, 2);
  job.evaluate_every = 0;
  const Plan plan = *plan_of_job(job, all_lanes(job));
  const auto last = static_cast<uint32_t>(plan.stages[1].rounds.size() - 1);
  ASSERT_LT(last_gradient_round(plan, 1), last);
  std::promise<uint64_t> begun;  // the last stage's version then
  auto wait = begun.get_future();
  bool told = false, waited = false;
  uint64_t seen = 0;
  Two* both = nullptr;
  Two two(job, [&](uint32_t lane, Step step, uint32_t round) {
    if (lane == 0 && step == Step(2) && round == 1 && !std::exchange(told, true))
      begun.set_value(newest(*both->lanes[1]));
    if (lane == 1 && step == Step(1) && round == last && !std::exchange(waited, true) &&
        wait.wait_for(std::chrono::seconds(10)) == std::future_status::ready)
      seen = wait.get();
  });
  both = &two;
  run_lanes(two.all(), [&](LaneProcess& lane, ViewCommunicator& comm, uint32_t) {
    for (uint64_t step = 0; step < 3; ++step) {
      const auto done = lane.trainer.run_step(comm, Step(step));
      CHECK(done.has_value(), "{}", done.error().to_string());
    }
  });
  EXPECT_EQ(seen, 1U) << "0: it had waited for the last stage";
}

// The first stage does not take the last gradient before the last stage's version is there. Over Gloo, where
// what was handed over has left only when it was received.
TEST(Staggered, TheLastStageUpdatesWhileTheFirstHasGradientsToTake) {
  conf::JobConfig job = staggered_job(1, 2);
  job.evaluate_every = 0;
  const uint32_t last = last_gradient_round(*plan_of_job(job, all_lanes(job)), 0);
  std::promise<void> updated;
  auto wait = updated.get_future();
  bool waited = false;
  Two two(job, [&](uint32_t lane, Step step, uint32_t round) {
    if (lane == 0 && step == Step(1) && round == last && !std::exchange(waited, true)) wait.wait();
  });
  run_lanes_over(two.all(), over_gloo(2, 10'000), [&](LaneProcess& lane, LosingComm& comm, uint32_t l) {
    for (uint64_t step = 0; step < 4; ++step) {
      const auto done = lane.trainer.run_step(comm, Step(step));
      if (l == 1 && step == 1) updated.set_value();
      CHECK(done.has_value(), "{}", done.error().to_string());
    }
  });
  EXPECT_TRUE(waited);
  EXPECT_EQ(newest(*two.lanes[0]), 4U);
}

// ---- the end of a view ----------------------------------------------------------------------------

// Every lane goes on until something fails; the newest version that all hold.
Version common_version(const std::vector<LaneProcess*>& lanes) {
  std::set<uint64_t> versions;
  for (const LaneProcess* lane : lanes) versions.insert(newest(*lane));
  CHECK(*versions.rbegin() - *versions.begin() <= 1, "a stage is {} versions ahead of another",
        *versions.rbegin() - *versions.begin());
  return Version(*versions.begin());
}

// Goes on with the others from the newest version that all hold.
void expect_no_trace(Group& group, const conf::JobConfig& job, uint32_t lost,
                     const LanesByStage& after, const PipelineRun& unbroken,
                     const std::string& what) {
  std::vector<LaneProcess*> survivors = group.all();
  const Version base = common_version(survivors);
  const uint64_t steps = unbroken.steps.size() - base.value;
  const std::vector<Payload> state = whole_state(survivors, base);  // in one buffer of every lane
  survivors.erase(survivors.begin() + lost);
  const ViewPlan next = plan_stages(job, after, {base, {1, 1}}, {1, 2});
  for (uint32_t l = 0; l < survivors.size(); ++l) open_lane(*survivors[l], next, l, state);
  const Losses rest = run_pipeline(survivors, base.value, steps).losses;
  const auto from = [&](const std::vector<double>& all) {
    return std::vector<double>(all.begin() + static_cast<long>(base.value), all.end());
  };
  ASSERT_EQ(rest.training, from(unbroken.losses.training)) << what;
  ASSERT_EQ(rest.norms, from(unbroken.losses.norms)) << what;
  ASSERT_EQ(rest.held_out.back(), unbroken.losses.held_out.back()) << what;
}

struct LostAnywhere {
  uint32_t stages, every, lost;
  LanesByStage after;
};

// Lost in every so many-th of the things that a member does with others, in the second to fourth step.
TEST(Staggered, ALossAnywhereLeavesNoTraceInReproducibleMode) {
  const LostAnywhere table[] = {{2, 7, 0, {{1}, {0, 1}}},
                                {2, 11, 3, {{0, 1}, {0}}},
                                {4, 19, 1, {{0}, {0, 1}, {0, 1}, {0, 1}}},
                                {4, 23, 4, {{0, 1}, {0, 1}, {1}, {0, 1}}},
                                {4, 29, 6, {{0, 1}, {0, 1}, {0, 1}, {1}}}};
  for (const LostAnywhere& row : table) {
    conf::JobConfig job = staggered_job(2, row.stages);
    job.evaluate_every = 2;
    const PipelineRun unbroken = fresh_pipeline(job, all_lanes(job), 6);
    std::set<uint64_t> bases;
    for (uint32_t n = 1;; n += row.every) {
      const uint32_t count = 2 * row.stages;
      Group group(job, count);
      const ViewPlan plan = plan_stages(job, all_lanes(job));
      for (uint32_t l = 0; l < count; ++l) open_lane(*group.processes[l], plan, l);
      std::atomic<bool> ended = false;
      run_losing(group.all(), [&](LaneProcess& lane, LosingComm& comm, uint32_t l) {
        bool done = lane.trainer.run_step(comm, Step(0)).has_value();
        if (l == row.lost) comm.lose_at(n);
        for (uint64_t step = 1; step < 4 && done; ++step)
          done = lane.trainer.run_step(comm, Step(step)).has_value();
        if (l == row.lost) ended = done;
      });
      if (ended) break;
      bases.insert(common_version(group.all()).value);
      expect_no_trace(group, job, row.lost, row.after, unbroken,
                      "S " + std::to_string(row.stages) + ", member " + std::to_string(row.lost) +
                          ", " + std::to_string(n));
    }
    EXPECT_GE(bases.size(), 3U) << "S " << row.stages;
  }
}

// The first stage stands at its last gradient of a step until the last stage has finished that step, then one of
// its lanes is lost: the last stage holds a version that never will be, and below it the one that all have.
TEST(Staggered, AStageThatIsAheadGoesBackToTheVersionThatAllHold) {
  conf::JobConfig job = staggered_job(2, 4);
  job.evaluate_every = 3;  // not in the second step: the last stage would wait for data
  const PipelineRun unbroken = fresh_pipeline(job, all_lanes(job), 4);
  const uint32_t last = last_gradient_round(*plan_of_job(job, all_lanes(job)), 0);
  Group group(job, 0);
  std::vector<ViewCommunicator*> comms(8);
  std::promise<void> all_ahead, lost;
  std::atomic<uint32_t> finished = 0;
  std::atomic<bool> came[2] = {false, false};
  const ViewPlan view = plan_stages(job, all_lanes(job));
  for (uint32_t l = 0; l < 8; ++l) {
    group.processes.push_back(std::make_unique<LaneProcess>(
        job, DataFingerprint{}, [&, l](Step step, uint32_t round, bool) {
          if (l > 1 || step != Step(1) || round != last || came[l].exchange(true)) return;
          if (l == 0) return lost.get_future().wait();
          all_ahead.get_future().wait();
          comms[l]->abort();
          lost.set_value();
        }));
    open_lane(*group.processes[l], view, l);
  }
  run_lanes(group.all(), [&](LaneProcess& lane, ViewCommunicator& comm, uint32_t l) {
    comms[l] = &comm;
    CHECK(lane.trainer.run_step(comm, Step(0)).has_value());
    const bool done = lane.trainer.run_step(comm, Step(1)).has_value();
    if (l < 6) return;
    CHECK(done);
    if (++finished == 2) all_ahead.set_value();
    CHECK(!lane.trainer.run_step(comm, Step(2)).has_value());
  });
  for (uint32_t l = 0; l < 2; ++l) ASSERT_EQ(newest(*group.processes[l]), 1U);
  for (uint32_t l = 6; l < 8; ++l) ASSERT_EQ(newest(*group.processes[l]), 2U);
  EXPECT_EQ(common_version(group.all()), Version(1));
  expect_no_trace(group, job, 1, {{0}, {0, 1}, {0, 1}, {0, 1}}, unbroken, "ahead");
}

// Nobody is left that made the last step's row and knows the loss: the new processes tell the loss alone.
TEST(Staggered, TheLastEvaluationIsNotLostWithTheWholeLastStage) {
  conf::JobConfig job = staggered_job(2, 2);
  job.evaluate_every = 0;
  job.steps = 2;
  const ViewPlan plan = plan_stages(job, all_lanes(job));
  Group group(job, 4);
  for (uint32_t l = 0; l < 4; ++l) open_lane(*group.processes[l], plan, l);
  const PipelineRun unbroken = run_pipeline(group.all(), 0, 2);
  ASSERT_EQ(unbroken.losses.held_out.size(), 1U);
  const std::vector<Payload> state = whole_state(group.all(), Version(2));
  for (uint32_t l = 2; l < 4; ++l) group.processes[l] = std::make_unique<LaneProcess>(job);
  const ViewPlan after = plan_stages(job, all_lanes(job), {Version(2), {1, 1}}, {1, 2});
  for (uint32_t l = 0; l < 4; ++l) open_lane(*group.processes[l], after, l, state);
  run_lanes(group.all(), [&](LaneProcess& lane, ViewCommunicator&, uint32_t l) {
    const auto row = lane.trainer.take_finished();
    CHECK(row.has_value() == (l >= 2), "member {}", l);
    if (!row) return;
    CHECK(row->epoch == (Epoch{1, 2}) && row->step == Step(1) && row->lane == l);
    CHECK(row->of_stage && row->of_stage->stage == 1 && row->of_stage->stages == 2);
    CHECK(row->held_out_loss == unbroken.losses.held_out[0]);
    CHECK(!lane.trainer.take_finished());
  });
}

}  // namespace
}  // namespace holdfast::train
