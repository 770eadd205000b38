#include <gtest/gtest.h>

#include <barrier>
#include <cmath>

#include "tests/train/step/lanes_harness.h"

namespace holdfast::train {
namespace {

Losses fresh_run(const conf::JobConfig& job, std::vector<uint32_t> coordinates, uint64_t steps) {
  const ViewPlan plan = plan_view(job, std::move(coordinates));
  Group group(job, static_cast<uint32_t>(plan.coordinates.size()));
  for (uint32_t l = 0; l < group.processes.size(); ++l) open_lane(*group.processes[l], plan, l);
  return train(group.all(), 0, steps);
}

// Every shard's payload at a version, wherever it is owned.
std::vector<Payload> whole_state(const std::vector<LaneProcess*>& lanes, Version version) {
  std::vector<Payload> state;
  for (LaneProcess* lane : lanes)
    for (const uint32_t shard : lane->trainer.owned()) {
      if (state.size() <= shard) state.resize(shard + 1);
      state[shard] = read_state(lane->trainer, shard, version);
    }
  return state;
}

TEST(Trainer, LearnsWhatThereIsToLearn) {
  const Losses losses = fresh_run(small_job(false), {0, 1, 2, 3}, 40);
  EXPECT_NEAR(losses.training.front(), std::log(16.0), 0.15);
  EXPECT_LT(losses.training.back(), 0.8 * losses.training.front());
  ASSERT_EQ(losses.held_out.size(), 8U);
  EXPECT_LT(losses.held_out.back(), 0.85 * losses.held_out.front());
}

TEST(Trainer, TheSameTopologyTwiceGivesTheSameBitsInDefaultMode) {
  EXPECT_EQ(fresh_run(small_job(false), {0, 1, 2}, 8), fresh_run(small_job(false), {0, 1, 2}, 8));
}

TEST(Trainer, ReproducibleModeGivesTheSameBitsOnAnyNumberOfLanes) {
  const conf::JobConfig job = small_job(true);
  const Losses four = fresh_run(job, {0, 1, 2, 3}, 12);
  EXPECT_EQ(four, fresh_run(job, {0, 1, 2}, 12));
  EXPECT_EQ(four, fresh_run(job, {1, 3}, 12));
  EXPECT_EQ(four, fresh_run(job, {2}, 12));
}

TEST(Trainer, ReproducibleModeDoesNotDependOnHowShardsAreCut) {
  conf::JobConfig job = small_job(true);
  const Losses four = fresh_run(job, {0, 1, 2, 3}, 8);
  job.shards = 7;
  EXPECT_EQ(four, fresh_run(job, {0, 1, 2, 3}, 8));
}

TEST(Trainer, DefaultModeAgreesOnAnyNumberOfLanesUpToRounding) {
  const Losses four = fresh_run(small_job(false), {0, 1, 2, 3}, 5);
  const Losses two = fresh_run(small_job(false), {0, 2}, 5);
  for (size_t step = 0; step < 5; ++step)
    EXPECT_NEAR(four.training[step], two.training[step], 1e-3 * four.training[step]);
}

// A lane is lost after step 5; its shards come from captured payloads, its micro-batches run on the
// others, and nothing is seen of it in the losses.
TEST(Trainer, ALostLaneLeavesNoTraceInReproducibleMode) {
  const conf::JobConfig job = small_job(true);
  const Losses unbroken = fresh_run(job, {0, 1, 2, 3}, 12);

  Group group(job, 4);
  const ViewPlan before = plan_view(job, {0, 1, 2, 3});
  for (uint32_t l = 0; l < 4; ++l) open_lane(*group.processes[l], before, l);
  Losses losses = train(group.all(), 0, 6);
  const std::vector<Payload> state = whole_state(group.all(), Version(6));

  const std::vector<LaneProcess*> survivors = {group.processes[0].get(), group.processes[1].get(),
                                               group.processes[3].get()};
  const ViewPlan after = plan_view(job, {0, 1, 3}, {Version(6), {1, 1}}, {1, 2});
  for (uint32_t l = 0; l < 3; ++l) open_lane(*survivors[l], after, l, state);
  const Losses rest = train(survivors, 6, 6);
  losses.training.insert(losses.training.end(), rest.training.begin(), rest.training.end());
  losses.held_out.insert(losses.held_out.end(), rest.held_out.begin(), rest.held_out.end());
  EXPECT_EQ(losses.training, unbroken.training);
  EXPECT_EQ(losses.held_out, unbroken.held_out);
}

TEST(Trainer, GoesBackOneVersionFromItsBuffers) {
  const conf::JobConfig job = small_job(true);
  Group group(job, 2);
  const ViewPlan first = plan_view(job, {0, 1});
  for (uint32_t l = 0; l < 2; ++l) open_lane(*group.processes[l], first, l);
  const Losses once = train(group.all(), 0, 7);
  for (const auto& lane : group.processes) {
    const auto held = lane->trainer.held();
    ASSERT_EQ(held.size(), 2U);
    EXPECT_EQ(held[0].state, (StateVersion{Version(7), {1, 1}}));
    EXPECT_EQ(held[1].state, (StateVersion{Version(6), {1, 1}}));
  }
  const ViewPlan again = plan_view(job, {0, 1}, {Version(6), {1, 1}}, {1, 2});
  for (uint32_t l = 0; l < 2; ++l) open_lane(*group.processes[l], again, l);
  const Losses repeated = train(group.all(), 6, 1);
  EXPECT_EQ(repeated.training[0], once.training[6]);
}

// The abort word is set while the last reduction is under way on every lane: no version comes of it.
TEST(Trainer, AnAbortedStepMakesNoVersion) {
  const conf::JobConfig job = small_job(false);
  Group group(job, 3);
  const ViewPlan plan = plan_view(job, {0, 1, 2});
  for (uint32_t l = 0; l < 3; ++l) open_lane(*group.processes[l], plan, l);
  run_lanes(group.all(), [&](LaneProcess& lane, ViewCommunicator& comm, uint32_t) {
    CHECK(lane.trainer.run_step(comm, Step(0)).has_value());
    lane.abort.set();
    const auto done = lane.trainer.run_step(comm, Step(1));
    CHECK(!done.has_value());
    CHECK(done.error().code == ErrorCode::kCommAborted);
  });
  for (const auto& lane : group.processes) {
    ASSERT_EQ(lane->trainer.held().size(), 1U);  // the buffer for version 2 was begun, and is void
    EXPECT_EQ(lane->trainer.current().version, Version(1));
  }
}

// What three lanes hold after lane 1 disappeared in the n-th collective of a step with evaluation.
struct AfterLoss {
  uint32_t collectives = 0;
  Version version;
};

AfterLoss lose_lane_in(const conf::JobConfig& job, uint32_t n) {
  Group group(job, 3);
  const ViewPlan plan = plan_view(job, {0, 1, 2});
  for (uint32_t l = 0; l < 3; ++l) open_lane(*group.processes[l], plan, l);
  std::vector<AfterLoss> after(3);
  run_losing(group.all(), [&](LaneProcess& lane, LosingComm& comm, uint32_t l) {
    CHECK(lane.trainer.run_step(comm, Step(0)).has_value());
    comm.lose_at(l == 1 ? n : 0);
    const auto done = lane.trainer.run_step(comm, Step(1));
    if (n == 0) {
      CHECK(done.has_value() && done->held_out_loss);
    } else {
      CHECK(!done.has_value());
      CHECK(done.error().code == (l == 1 ? ErrorCode::kCommAborted : ErrorCode::kCommPeerLost));
    }
    after[l] = {comm.calls(), lane.trainer.current().version};
    const auto held = lane.trainer.held();
    CHECK(held.front().state.version == after[l].version);
    CHECK(held.front().shards.size() == lane.trainer.owned().size());
    const auto finished = lane.trainer.take_finished();
    CHECK(finished.has_value() == (n != 0 && after[l].version == Version(2)));
    if (finished) CHECK(finished->step == Step(1) && finished->loss > 0 && !finished->held_out_loss);
    CHECK(!lane.trainer.take_finished());
  });
  for (const AfterLoss& one : after) CHECK(one.version == after[1].version);
  return after[1];
}

// A peer that disappears in any collective of a step: an error, never a version by half, and a step
// that was finished all the same is handed out once.
TEST(Trainer, APeerLostInAnyCollectiveEndsTheStepWithAnErrorOnAll) {
  conf::JobConfig job = small_job(false);
  job.evaluate_every = 2;
  const uint32_t collectives = lose_lane_in(job, 0).collectives;
  ASSERT_GT(collectives, 20U);
  std::vector<uint64_t> versions;
  for (uint32_t n = 1; n <= collectives; ++n) versions.push_back(lose_lane_in(job, n).version.value);
  EXPECT_TRUE(std::is_sorted(versions.begin(), versions.end()));
  EXPECT_EQ(versions.front(), 1U);
  EXPECT_EQ(versions.back(), 2U) << "lost in the evaluation: the version exists";
}

// Nothing follows the last step: its evaluation is made up for in the next view.
TEST(Trainer, TheLastEvaluationIsNotLostWithAPeer) {
  conf::JobConfig job = small_job(true);
  job.steps = 2;
  std::vector<double> unbroken;
  for (const bool broken : {false, true}) {
    Group group(job, 2);
    const ViewPlan plan = plan_view(job, {0, 1});
    for (uint32_t l = 0; l < 2; ++l) open_lane(*group.processes[l], plan, l);
    if (!broken) {
      unbroken = train(group.all(), 0, 2).held_out;
      continue;
    }
    run_losing(group.all(), [&](LaneProcess& lane, LosingComm& comm, uint32_t l) {
      comm.lose_at(0);
      CHECK(lane.trainer.run_step(comm, Step(0)).has_value());
      // The step's own collectives are as many as the first's; the next is of the evaluation.
      comm.lose_at(l == 1 ? comm.calls() + 1 : 0);
      CHECK(!lane.trainer.run_step(comm, Step(1)).has_value());
      CHECK(!lane.trainer.take_finished()->held_out_loss);
    });
    const ViewPlan after = plan_view(job, {0, 1}, {Version(2), {1, 1}}, {1, 2});
    for (uint32_t l = 0; l < 2; ++l) open_lane(*group.processes[l], after, l);
    run_lanes(group.all(), [&](LaneProcess& lane, ViewCommunicator&, uint32_t) {
      const auto row = lane.trainer.take_finished();
      CHECK(row && row->step == Step(1) && row->epoch == (Epoch{1, 2}));
      CHECK(row->held_out_loss == unbroken.at(0));
      CHECK(!lane.trainer.take_finished());
    });
  }
}

// ---- the same text everywhere ---------------------------------------------------------------------

// What materialize says on every lane, when lane l has the text data[l].
std::vector<Status> compare(const std::vector<DataFingerprint>& data) {
  const conf::JobConfig job = small_job(false);
  std::vector<std::unique_ptr<LaneProcess>> lanes;
  std::vector<uint32_t> coordinates;
  for (uint32_t l = 0; l < data.size(); ++l) {
    lanes.push_back(std::make_unique<LaneProcess>(job, data[l]));
    coordinates.push_back(l);
  }
  const ViewPlan plan = plan_view(job, coordinates);
  auto comms = make_in_process_group(static_cast<uint32_t>(data.size()), 20'000);
  std::vector<Status> said(data.size());
  std::vector<std::thread> threads;
  for (uint32_t l = 0; l < data.size(); ++l) {
    open_lane(*lanes[l], plan, l);
    threads.emplace_back([&, l] {
      said[l] = lanes[l]->trainer.materialize(*comms[l]);
      if (!said[l]) comms[l]->abort();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return said;
}

TEST(Trainer, ALaneWithAnotherTextIsNamedBeforeTheFirstStep) {
  const DataFingerprint text{100, 7}, longer{101, 7}, other{100, 8};
  for (const Status& said : compare({text, text, text})) EXPECT_TRUE(said.has_value());
  for (const DataFingerprint& wrong : {longer, other}) {
    for (uint32_t odd = 0; odd < 3; ++odd) {
      std::vector<DataFingerprint> data(3, text);
      data[odd] = wrong;
      const auto said = compare(data);
      for (uint32_t l = 0; l < 3; ++l) {
        ASSERT_FALSE(said[l].has_value());
        EXPECT_EQ(said[l].error().code,
                  l == odd ? ErrorCode::kDataDiffers : ErrorCode::kCommPeerLost);
      }
      const std::string message = said[odd].error().message;
      EXPECT_NE(message.find("none has " + std::to_string(wrong.tokens) + " tokens"),
                std::string::npos);
      EXPECT_NE(message.find("on lane " + std::to_string(odd) + ", but 100"), std::string::npos)
          << message;
    }
  }
  const auto two = compare({text, other});
  EXPECT_EQ(two[1].error().code, ErrorCode::kDataDiffers) << "of two, lane 0 is believed";
}

// ---- progress -------------------------------------------------------------------------------------

// A worker counts as hung when its counter stands still: every parameter group moves it.
TEST(Trainer, EveryGroupOfOperationsMovesTheProgressCounter) {
  const conf::JobConfig job = small_job(false);
  uint32_t marks = 0;
  LaneProcess lane(job, {}, [&](Step, uint32_t, bool) { ++marks; });
  open_lane(lane, plan_view(job, {0}), 0);
  run_lanes({&lane}, [&](LaneProcess& l, ViewCommunicator& comm, uint32_t) {
    marks = 0;
    CHECK(l.trainer.run_step(comm, Step(0)).has_value());
  });
  const uint32_t dense = 2 + 2 * job.model.layers;  // groups that every micro-batch passes through
  const uint32_t rounds = job.pipelines * job.micro_batches;
  const auto shards = static_cast<uint32_t>(lane.trainer.owned().size());
  EXPECT_GE(marks, rounds * (dense + (dense - 1) + 2 * dense) + shards);
}

TEST(Trainer, AnUpdateThatWaitsForACaptureSaysSo) {
  const conf::JobConfig job = small_job(false);
  std::unique_ptr<Protection> guard;
  bool waited = false, last = false;
  LaneProcess lane(job, {}, [&](Step step, uint32_t, bool waiting) {
    last = waiting;
    if (!waiting || step != Step(1)) return;
    waited = true;
    guard.reset();
  });
  open_lane(lane, plan_view(job, {0}), 0);
  run_lanes({&lane}, [&](LaneProcess& l, ViewCommunicator& comm, uint32_t) {
    guard = l.trainer.protect_version(Version(0), 600'000);
    CHECK(l.trainer.run_step(comm, Step(0)).has_value());
    CHECK(l.trainer.run_step(comm, Step(1)).has_value());
  });
  EXPECT_TRUE(waited);
  EXPECT_FALSE(last);
}

TEST(Trainer, RefusesToMaterializeWithoutItsShards) {
  const conf::JobConfig job = small_job(false);
  LaneProcess lane(job);
  const ViewPlan plan = plan_view(job, {0}, {Version(3), {1, 1}}, {1, 2});
  ASSERT_TRUE(lane.trainer.open_view(plan.view_of(0))
                  .has_value());
  auto comms = make_in_process_group(1, 1'000);
  const Status done = lane.trainer.materialize(*comms[0]);
  ASSERT_FALSE(done.has_value());
  EXPECT_EQ(done.error().code, ErrorCode::kRestoreImpossible);
}

// ---- captures beside training ---------------------------------------------------------------------

TEST(Protection, KeepsTheVersionWhileAnUpdateWaits) {
  const conf::JobConfig job = small_job(false);
  LaneProcess lane(job);
  open_lane(lane, plan_view(job, {0}), 0);
  run_lanes({&lane}, [&](LaneProcess& l, ViewCommunicator& comm, uint32_t) {
    auto guard = l.trainer.protect_version(Version(0), 60'000);
    ASSERT_NE(guard, nullptr);
    CHECK(l.trainer.run_step(comm, Step(0)).has_value());  // writes the other bank: need not wait
    Payload before(l.trainer.shard_bytes(0)), after(l.trainer.shard_bytes(0));
    ASSERT_TRUE(guard->read_shard(0, before, ignore_pieces));
    std::atomic<bool> released{false};
    std::thread reader([&] {
      ASSERT_TRUE(guard->read_shard(0, after, ignore_pieces));
      released = true;
      guard.reset();
    });
    CHECK(l.trainer.run_step(comm, Step(1)).has_value());  // needs the bank: waits for the reader
    EXPECT_TRUE(released);
    reader.join();
    EXPECT_EQ(before, after);
    EXPECT_EQ(l.trainer.protect_version(Version(0), 0), nullptr);
  });
}

TEST(Protection, IsRevokedWhenTheWaitIsOver) {
  const conf::JobConfig job = small_job(false);
  LaneProcess lane(job);
  open_lane(lane, plan_view(job, {0}), 0);
  run_lanes({&lane}, [&](LaneProcess& l, ViewCommunicator& comm, uint32_t) {
    const auto guard = l.trainer.protect_version(Version(0), 10);
    CHECK(l.trainer.run_step(comm, Step(0)).has_value());
    CHECK(l.trainer.run_step(comm, Step(1)).has_value());
    Payload payload(l.trainer.shard_bytes(0));
    EXPECT_FALSE(guard->read_shard(0, payload, ignore_pieces));
  });
}

// Readers that copy all the time see whole versions only: shard state of a version never changes.
TEST(Protection, ReadersNeverSeeAVersionByHalf) {
  const conf::JobConfig job = small_job(false);
  LaneProcess lane(job);
  open_lane(lane, plan_view(job, {0}), 0);
  std::atomic<bool> ending{false};
  std::atomic<uint64_t> compared{0};
  std::thread reader([&] {
    for (uint64_t v = 0; !ending; ++v) {
      const auto guard = lane.trainer.protect_version(Version(v % 21), 2);
      if (!guard) continue;
      Payload first(lane.trainer.shard_bytes(3)), second(first.size());
      if (!guard->read_shard(3, first, ignore_pieces) || !guard->read_shard(3, second, ignore_pieces)) continue;
      CHECK(first == second);
      ++compared;
    }
  });
  run_lanes({&lane}, [&](LaneProcess& l, ViewCommunicator& comm, uint32_t) {
    for (uint64_t step = 0; step < 20; ++step)
      CHECK(l.trainer.run_step(comm, Step(step)).has_value());
  });
  ending = true;
  reader.join();
  EXPECT_GT(compared, 0U);
}

}  // namespace
}  // namespace holdfast::train
