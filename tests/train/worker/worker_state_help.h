// WorkerState driven by hand, for its tests.
#pragma once

#include <gtest/gtest.h>

#include <variant>
#include <vector>

#include "train/worker/worker_state.h"

namespace holdfast::train {

inline constexpr Epoch kOne{1, 1}, kTwo{1, 2};
inline constexpr uint64_t kSteps = 6;
inline const Error kBroke{ErrorCode::kCommPeerLost, "rank 1 is gone"};

inline Welcome welcome() {
  Welcome message;
  message.job.name = JobId("a");
  return message;
}

inline Restore restore_to(uint64_t version, Epoch epoch) {
  Restore message;
  message.epoch = epoch;
  message.base = {Version(version), epoch};
  message.lanes = 1;
  return message;
}

inline StepDone row(Epoch epoch, Step step) {
  StepDone done;
  done.epoch = epoch;
  done.step = step;
  return done;
}

class WorkerStates : public ::testing::Test {
 protected:
  template <class T>
  T task() {
    WorkerActions actions;
    auto next = state_.next_task(actions);
    said_.insert(said_.end(), actions.send.begin(), actions.send.end());
    EXPECT_TRUE(next && std::holds_alternative<T>(*next));
    return next && std::holds_alternative<T>(*next) ? std::get<T>(*next) : T{};
  }
  bool stands() {
    WorkerActions actions;
    const bool nothing = !state_.next_task(actions);
    said_.insert(said_.end(), actions.send.begin(), actions.send.end());
    return nothing;
  }
  void take(const WorkerActions& actions) {
    said_.insert(said_.end(), actions.send.begin(), actions.send.end());
    aborted_ |= actions.abort;
  }
  // The newest message, which must be a T.
  template <class T>
  T said() {
    EXPECT_TRUE(!said_.empty() && std::holds_alternative<T>(said_.back()));
    return !said_.empty() && std::holds_alternative<T>(said_.back()) ? std::get<T>(said_.back())
                                                                     : T{};
  }
  void open() {
    take(state_.on_message(welcome()));
    task<OpenJob>();
    take(state_.job_opened(kSteps));
  }
  void quiesce(Epoch epoch) {
    take(state_.on_message(Quiesce{epoch}));
    take(state_.idle(task<BecomeIdle>().epoch, {}));
  }
  void run_from(uint64_t version, Epoch epoch) {
    take(state_.on_message(restore_to(version, epoch)));
    const auto wanted = task<RestoreShards>();
    take(state_.restored(wanted.restore, "address", {}));
    take(state_.on_message(Go{epoch, {"address"}}));
    task<StartRunning>();
    take(state_.running({}));
  }

  WorkerState state_{0, 42};
  std::vector<FromWorker> said_;
  bool aborted_ = false;
};

}  // namespace holdfast::train
