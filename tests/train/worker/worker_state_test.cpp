// What a worker may do next: transitions that once went wrong, and a walk over all of them.
#include "tests/train/worker/worker_state_help.h"

#include <random>

namespace holdfast::train {
namespace {

TEST_F(WorkerStates, AWorkerWithoutItsJobSaysSoAndNeverAnswersQuiesce) {
  take(state_.on_message(welcome()));
  task<OpenJob>();
  take(state_.on_message(Quiesce{kOne}));
  take(state_.of_no_use({ErrorCode::kDataMissing, "no such file"}));
  EXPECT_EQ(said<Fatal>().epoch, Epoch{}) << "of no view";
  take(state_.on_message(Quiesce{kOne}));
  take(state_.on_message(Quiesce{kTwo}));
  EXPECT_NE(task<Leave>().why.find("no such file"), std::string::npos);
  EXPECT_EQ(said_.size(), 1u);
}

TEST_F(WorkerStates, AWorkerWithoutItsJobLeavesBeforeAnyQuiesceToo) {
  take(state_.on_message(welcome()));
  task<OpenJob>();
  take(state_.of_no_use({ErrorCode::kArenaCorrupt, "not an arena"}));
  take(state_.on_message(Quiesce{Epoch{}}));  // its own epoch: said again at once, once
  task<Leave>();
  EXPECT_EQ(said_.size(), 1u);
  said<Fatal>();
}

TEST_F(WorkerStates, AnEndThatWasWishedForIsNoFailure) {
  take(state_.on_message(welcome()));
  task<OpenJob>();
  take(state_.on_message(Exit{"job stopped"}));
  take(state_.of_no_use({ErrorCode::kDataMissing, "no such file"}));
  EXPECT_EQ(task<Leave>().why, "job stopped");
  EXPECT_TRUE(said_.empty());
}

TEST_F(WorkerStates, DataThatDiffersMakesTheWorkerLeave) {
  open();
  quiesce(kOne);
  run_from(0, kOne);
  task<RunStep>();
  take(state_.failed({ErrorCode::kDataDiffers, "other text"}, {}));
  EXPECT_EQ(said<Fatal>().error.code, ErrorCode::kDataDiffers);
  EXPECT_EQ(said<Fatal>().epoch, Epoch{}) << "of this worker, not of the view";
  task<Leave>();
}

TEST_F(WorkerStates, OtherFatalErrorsLeaveItBrokenAndThere) {
  open();
  quiesce(kOne);
  run_from(0, kOne);
  task<RunStep>();
  take(state_.failed({ErrorCode::kLossNotFinite, "nan"}, {}));
  EXPECT_EQ(said<Fatal>().epoch, kOne);
  EXPECT_TRUE(stands());
  EXPECT_EQ(state_.phase(), WorkerPhase::kBroken);
  quiesce(kTwo);
  EXPECT_EQ(said<Quiesced>().epoch, kTwo);
}

TEST_F(WorkerStates, AStepWhoseVersionExistsIsSaidBeforeWhatFailedAfterIt) {
  open();
  quiesce(kOne);
  run_from(0, kOne);
  const Step step = task<RunStep>().step;
  take(state_.step_done(row(kOne, step), {}));
  take(state_.failed(kBroke, {}));
  ASSERT_GE(said_.size(), 2u);
  EXPECT_EQ(std::get<StepDone>(said_[said_.size() - 2]).step, Step(0));
  EXPECT_EQ(said<CommBroken>().step, Step(1)) << "the next is not begun";
  EXPECT_TRUE(aborted_);
  EXPECT_EQ(state_.hello().step, Step(1));
  EXPECT_TRUE(stands());
}

TEST_F(WorkerStates, OfTwoQuiescesTheNewerGetsTheOnlyAnswer) {
  open();
  take(state_.on_message(Quiesce{kOne}));
  const Epoch first = task<BecomeIdle>().epoch;
  take(state_.on_message(Quiesce{kTwo}));
  take(state_.idle(first, {}));
  EXPECT_TRUE(said_.empty());
  take(state_.idle(task<BecomeIdle>().epoch, {}));
  EXPECT_EQ(said<Quiesced>().epoch, kTwo);
  EXPECT_EQ(said_.size(), 1u);
  take(state_.on_message(Quiesce{kTwo}));  // asked again: the answer was lost
  EXPECT_EQ(said<Quiesced>().epoch, kTwo);
  EXPECT_EQ(said_.size(), 2u);
  take(state_.on_message(Quiesce{kOne}));
  EXPECT_EQ(said_.size(), 2u);
}

TEST_F(WorkerStates, OfTwoRestoresTheNewerIsAnswered) {
  open();
  quiesce(kOne);
  take(state_.on_message(restore_to(3, kOne)));
  const auto first = task<RestoreShards>();
  take(state_.on_message(restore_to(2, kOne)));
  const size_t before = said_.size();
  take(state_.restored(first.restore, "old", {}));
  take(state_.on_message(Go{kOne, {"old"}}));  // not for what is to come
  EXPECT_EQ(said_.size(), before);
  take(state_.restored(task<RestoreShards>().restore, "new", {}));
  EXPECT_EQ(said<Restored>().comm_address, "new");
  EXPECT_TRUE(stands());
  take(state_.on_message(Go{kOne, {"new"}}));
  task<StartRunning>();
  take(state_.running({}));
  EXPECT_EQ(task<RunStep>().step, Step(2));
}

TEST_F(WorkerStates, HowLongTheRestorationTookIsSaidOnceItRunsUnlessTheViewEnded) {
  open();
  quiesce(kOne);
  take(state_.on_message(restore_to(3, kOne)));
  take(state_.restored(task<RestoreShards>().restore, "address", {}));
  take(state_.on_message(Go{kOne, {"address"}}));
  task<StartRunning>();
  take(state_.running({.bytes = 7, .load_seconds = 0.5}));
  EXPECT_EQ(said<Running>().epoch, kOne);
  EXPECT_EQ(said<Running>().times.bytes, 7u);
  EXPECT_EQ(said<Running>().times.load_seconds, 0.5);

  quiesce(kTwo);
  take(state_.on_message(restore_to(3, kTwo)));
  take(state_.restored(task<RestoreShards>().restore, "address", {}));
  take(state_.on_message(Go{kTwo, {"address"}}));
  task<StartRunning>();
  take(state_.on_message(Quiesce{Epoch{1, 3}}));
  const size_t before = said_.size();
  take(state_.running({}));
  EXPECT_EQ(said_.size(), before);
}

// ---- a walk ---------------------------------------------------------------------------------------

// Random messages at random times, random outcomes; what is said is held against these rules.
class Walk {
 public:
  explicit Walk(uint32_t seed) : random_(seed) {
    take(state_.on_message(welcome()));
    carry_out_one();
  }

  void go(int moves) {
    for (int i = 0; i < moves && !left_; ++i) {
      if (dice(3) == 0) message();
      carry_out_one();
    }
  }
  // Every worker that is asked to be idle gets there.
  void end() {
    if (left_) return;
    const Epoch last = asked_.next();
    asked_ = last;
    take(state_.on_message(Quiesce{last}));
    for (int i = 0; i < 3 && !left_; ++i) carry_out_one(/*quiet=*/true);
    if (!left_) {
      EXPECT_EQ(answered_, last);
    }
  }

 private:
  uint32_t dice(uint32_t sides) { return static_cast<uint32_t>(random_()) % sides; }
  Epoch near() {
    const uint32_t number = asked_.number + dice(3);
    return {1, number > 0 ? number - 1 : 0};
  }

  void message() {
    switch (dice(8)) {
      case 0:
      case 1: {
        const Epoch epoch = near();
        asked_ = std::max(asked_, epoch);
        take(state_.on_message(Quiesce{epoch}));
        break;
      }
      case 2:
      case 3:
        take(state_.on_message(restore_to(dice(kSteps + 1), asked_)));
        break;
      case 4:
      case 5:
        take(state_.on_message(Go{asked_, {"address"}}));
        break;
      case 6: {
        StopAt stop{near(), {}};
        if (dice(3) > 0) stop.step = Step(dice(kSteps + 1));
        take(state_.on_message(stop));
        break;
      }
      case 7:
        if (dice(40) == 0)
          take(state_.on_message(Exit{"enough"}));
        else
          take(state_.on_message(welcome()));
        break;
    }
  }

  void take(const WorkerActions& actions) {
    for (const FromWorker& message : actions.send) {
      EXPECT_FALSE(fatal_) << "nothing is said after a Fatal that makes the worker leave";
      if (const auto* quiesced = std::get_if<Quiesced>(&message)) {
        EXPECT_GE(quiesced->epoch, answered_);
        EXPECT_EQ(quiesced->epoch, asked_) << "an older Quiesce was overtaken";
        EXPECT_EQ(state_.phase(), WorkerPhase::kIdle);
        answered_ = quiesced->epoch;
      }
      if (const auto* restored = std::get_if<Restored>(&message)) {
        EXPECT_EQ(restored->epoch, asked_);
        EXPECT_EQ(state_.phase(), WorkerPhase::kRestoring);
      }
      if (const auto* stopped = std::get_if<Stopped>(&message)) {
        EXPECT_EQ(stopped->step, next_);
      }
      if (const auto* fatal = std::get_if<Fatal>(&message)) {
        fatal_ = fatal->epoch == Epoch{};
      }
    }
  }

  void carry_out_one(bool quiet = false) {
    WorkerActions actions;
    auto task = state_.next_task(actions);
    take(actions);
    if (!task) return;
    if (std::holds_alternative<Leave>(*task)) {
      left_ = true;
      return;
    }
    if (!quiet && dice(4) == 0) message();  // while it is under way
    std::visit([this](const auto& t) { finish(t); }, *task);
  }
  void finish(const OpenJob&) {
    if (dice(10) == 0)
      take(state_.of_no_use({ErrorCode::kDataMissing, "no such file"}));
    else
      take(state_.job_opened(kSteps));
  }
  void finish(const BecomeIdle& task) { take(state_.idle(task.epoch, {})); }
  void finish(const RestoreShards& task) {
    next_ = Step(task.restore.base.version.value);
    if (dice(4) == 0)
      take(state_.restore_failed({task.restore.epoch, {}, kBroke}, {}));
    else
      take(state_.restored(task.restore, "address", {}));
  }
  void finish(const StartRunning&) {
    if (dice(4) == 0)
      take(state_.failed(dice(4) == 0 ? Error{ErrorCode::kDataDiffers, "other text"} : kBroke, {}));
    else
      take(state_.running({}));
  }
  void finish(const RunStep& task) {
    EXPECT_EQ(task.step, next_) << "steps follow one another";
    EXPECT_LT(task.step.value, kSteps);
    const uint32_t how = dice(6);
    if (how != 0) {
      next_ = next_.next();
      take(state_.step_done(row(state_.epoch(), task.step), {}));
    }
    if (how <= 1) take(state_.failed(kBroke, {}));
  }
  void finish(const Leave&) {}

  std::mt19937 random_;
  WorkerState state_{0, 42};
  Epoch asked_{1, 0}, answered_;
  Step next_;
  bool left_ = false, fatal_ = false;
};

TEST(WorkerStateWalk, KeepsItsRulesWhateverComes) {
  for (uint32_t seed = 1; seed <= 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Walk walk(seed);
    walk.go(200);
    walk.end();
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace holdfast::train
