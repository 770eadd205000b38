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

TEST_F(WorkerStates, TooLittleMemoryForAnyStepFailsTheJobAndForOneStepThisWorker) {
  open();
  quiesce(kOne);
  run_from(0, kOne);
  task<RunStep>();
  take(state_.failed({ErrorCode::kDeviceMemory, "no room"}, {}));
  EXPECT_EQ(said<Fatal>().epoch, kOne) << "so it is for the others";
  quiesce(kTwo);
  run_from(0, kTwo);
  task<RunStep>();
  take(state_.step_done(row(kTwo, Step(0)), {}));
  task<RunStep>();
  take(state_.failed({ErrorCode::kDeviceMemory, "no room"}, {}));
  EXPECT_EQ(said<Fatal>().epoch, Epoch{});
  task<Leave>();
}

}  // namespace
}  // namespace holdfast::train
