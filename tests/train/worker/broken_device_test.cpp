// A worker whose device breaks, or has no memory left: it goes, the others go on.
#include "tests/train/worker/worker_state_help.h"

namespace holdfast::train {
namespace {

TEST_F(WorkerStates, ABrokenDeviceMakesTheWorkerLeaveAndTheOthersGoOn) {
  open();
  quiesce(kOne);
  run_from(0, kOne);
  task<RunStep>();
  take(state_.failed({ErrorCode::kDeviceFailed, "an illegal access"}, {}));
  EXPECT_EQ(said<Fatal>().epoch, Epoch{}) << "of this worker, not of the view";
  task<Leave>();
}

TEST_F(WorkerStates, ABrokenDeviceOffersNothingAtTheEndOfAView) {
  open();
  quiesce(kOne);
  run_from(0, kOne);
  task<RunStep>();
  take(state_.on_message(Quiesce{kTwo}));
  take(state_.failed({ErrorCode::kDeviceFailed, "an illegal access"}, {}));
  EXPECT_EQ(said<Fatal>().epoch, Epoch{});
  task<Leave>();
}

TEST_F(WorkerStates, ADeviceThatBreaksInARestorationMakesTheWorkerLeave) {
  open();
  quiesce(kOne);
  take(state_.on_message(restore_to(0, kOne)));
  task<RestoreShards>();
  take(state_.restore_failed({kOne, {}, {ErrorCode::kDeviceFailed, "an illegal access"}}, {}));
  EXPECT_EQ(said<Fatal>().error.code, ErrorCode::kDeviceFailed);
  task<Leave>();
}

TEST_F(WorkerStates, TooLittleMemoryMakesTheWorkerLeaveUnlessTheViewEnds) {
  open();
  quiesce(kOne);
  run_from(0, kOne);
  task<RunStep>();
  take(state_.on_message(Quiesce{kTwo}));
  take(state_.failed({ErrorCode::kDeviceMemory, "no room"}, {}));
  take(state_.idle(task<BecomeIdle>().epoch, {}));
  EXPECT_EQ(said<Quiesced>().epoch, kTwo) << "the next view may ask for less";
  run_from(0, kTwo);
  task<RunStep>();
  aborted_ = false;
  take(state_.failed({ErrorCode::kDeviceMemory, "no room"}, {}));
  EXPECT_EQ(said<Fatal>().error.code, ErrorCode::kDeviceMemory);
  EXPECT_EQ(said<Fatal>().epoch, Epoch{});
  EXPECT_TRUE(aborted_) << "the others notice at once";
  task<Leave>();
}

}  // namespace
}  // namespace holdfast::train
