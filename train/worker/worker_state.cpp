#include "train/worker/worker_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace holdfast::train {
namespace {

WorkerActions ignored(std::string why) {
  WorkerActions actions;
  actions.notes.push_back(std::move(why));
  return actions;
}

WorkerActions say(FromWorker message) {
  WorkerActions actions;
  actions.send.push_back(std::move(message));
  return actions;
}

}  // namespace

bool breaks_view(ErrorCode code) {
  return code == ErrorCode::kCommAborted || code == ErrorCode::kCommPeerLost ||
         code == ErrorCode::kCommTimeout || code == ErrorCode::kCommSetup;
}

bool spoils_worker(ErrorCode code) {
  return code == ErrorCode::kDeviceFailed || code == ErrorCode::kDeviceMissing;
}

WorkerActions WorkerState::on_message(const ToWorker& message) {
  return std::visit([this](const auto& m) { return on(m); }, message);
}

WorkerActions WorkerState::on(const Welcome& message) {
  const std::string key = job_key(message.job, message.submitted_in);
  if (key == job_key_) return {};  // the daemon does not remember that it said so
  if (!job_key_.empty())
    return leave(fmt::format("this worker serves job {}, the daemon wants {}", job_key_, key));
  job_key_ = key;
  welcome_ = message;
  return {};
}

WorkerActions WorkerState::on(const Quiesce& message) {
  if (leave_)  // an answer would offer a worker that is gone in a moment
    return ignored(fmt::format("Quiesce of epoch {} ignored, this worker leaves",
                               to_string(message.epoch)));
  const Epoch newest = quiesce_.value_or(epoch_);
  if (message.epoch < newest)
    return ignored(fmt::format("Quiesce of old epoch {} ignored, mine is {}",
                               to_string(message.epoch), to_string(newest)));
  if (message.epoch == newest) {
    // Asked again, perhaps by a restarted daemon that missed the answer.
    if (!quiesce_ && phase_ == WorkerPhase::kIdle && !restore_) return say(Quiesced{epoch_, held_});
    return {};
  }
  quiesce_ = message.epoch;
  restore_.reset();
  go_.reset();
  stop_at_.reset();
  WorkerActions actions;
  actions.abort = actions.cancel_captures = true;
  return actions;
}

WorkerActions WorkerState::on(const Restore& message) {
  // A worker that started after the view's Quiesce went out has nothing to be aborted: it joins.
  if (!quiesce_ && phase_ == WorkerPhase::kIdle && !restore_ && message.epoch > epoch_)
    epoch_ = message.epoch;
  if (!current(message.epoch) ||
      (phase_ != WorkerPhase::kIdle && phase_ != WorkerPhase::kRestoring))
    return ignored(fmt::format("Restore of epoch {} ignored, mine is {}", to_string(message.epoch),
                               to_string(epoch_)));
  restore_ = message;
  go_.reset();
  return {};
}

WorkerActions WorkerState::on(const Go& message) {
  if (!current(message.epoch) || phase_ != WorkerPhase::kRestoring || !prepared_ || restore_)
    return ignored(fmt::format("Go of epoch {} ignored, mine is {}", to_string(message.epoch),
                               to_string(epoch_)));
  go_ = message;
  return {};
}

WorkerActions WorkerState::on(const Capture& message) {
  if (!current(message.epoch))
    return ignored(fmt::format("Capture of epoch {} ignored, mine is {}", to_string(message.epoch),
                               to_string(epoch_)));
  if (phase_ == WorkerPhase::kIdle)
    return say(CaptureMissed{epoch_, message.version, "no view is open"});
  WorkerActions actions;
  actions.capture = message;
  return actions;
}

WorkerActions WorkerState::on(const StopAt& message) {
  if (!current(message.epoch) || phase_ == WorkerPhase::kIdle) return {};
  if (!message.step) {
    stop_at_.reset();
    return {};
  }
  const Step first_free = begun_ ? step_.next() : step_;
  if (*message.step < first_free)
    return say(StopRefused{epoch_, Step(first_free.value - 1)});
  stop_at_ = message.step;
  if (phase_ == WorkerPhase::kStopped && must_stop()) return say(Stopped{epoch_, step_});
  return {};
}

WorkerActions WorkerState::on(const Exit& message) { return leave(message.why); }

WorkerActions WorkerState::leave(std::string why) {
  if (!leave_) leave_ = std::move(why);
  WorkerActions actions;
  actions.abort = actions.cancel_captures = true;
  return actions;
}

bool WorkerState::must_stop() const {
  return step_.value >= steps_ || (stop_at_ && step_ >= *stop_at_);
}

std::optional<WorkerTask> WorkerState::next_task(WorkerActions& actions) {
  if (leave_) return Leave{*leave_};
  if (welcome_) return OpenJob{*std::exchange(welcome_, std::nullopt)};
  if (quiesce_) return BecomeIdle{*quiesce_};
  if (restore_) {
    phase_ = WorkerPhase::kRestoring;
    prepared_ = false;
    step_ = Step(restore_->base.version.value);
    return RestoreShards{*std::exchange(restore_, std::nullopt)};
  }
  if (go_) {
    prepared_ = false;  // a Go said twice connects once
    return StartRunning{*std::exchange(go_, std::nullopt)};
  }
  if (phase_ != WorkerPhase::kRunning && phase_ != WorkerPhase::kStopped) return std::nullopt;
  if (must_stop()) {
    if (phase_ == WorkerPhase::kRunning) actions.send.push_back(Stopped{epoch_, step_});
    phase_ = WorkerPhase::kStopped;
    return std::nullopt;
  }
  phase_ = WorkerPhase::kRunning;
  begun_ = true;
  return RunStep{step_};
}

WorkerActions WorkerState::job_opened(uint64_t steps) {
  steps_ = steps;
  return {};
}

WorkerActions WorkerState::of_no_use(Error error) {
  if (leave_) return {};
  return give_up(std::move(error));
}

WorkerActions WorkerState::give_up(Error error) {
  WorkerActions actions = leave(error.to_string());
  actions.send.push_back(Fatal{Epoch{}, std::move(error)});
  return actions;
}

WorkerActions WorkerState::idle(Epoch epoch, std::vector<HeldShards> held) {
  held_ = std::move(held);
  phase_ = WorkerPhase::kIdle;
  begun_ = false;
  prepared_ = false;
  // A newer Quiesce came meanwhile: it gets the only answer.
  if (quiesce_ && *quiesce_ > epoch) return {};
  epoch_ = epoch;
  quiesce_.reset();
  return say(Quiesced{epoch_, held_});
}

WorkerActions WorkerState::restored(const Restore& restore, std::string comm_address,
                                    std::vector<HeldShards> held) {
  held_ = std::move(held);
  if (!current(restore.epoch) || restore_) return {};
  prepared_ = true;
  return say(Restored{epoch_, std::move(comm_address)});
}

WorkerActions WorkerState::restore_failed(RestoreFailed failure, std::vector<HeldShards> held) {
  held_ = std::move(held);
  if (!leave_ && spoils_worker(failure.error.code)) return give_up(std::move(failure.error));
  if (!current(failure.epoch) || restore_) return {};
  phase_ = WorkerPhase::kIdle;
  return say(std::move(failure));
}

WorkerActions WorkerState::running(const RestoreTimes& times, std::optional<StepDone> evaluated) {
  WorkerActions actions;
  if (!quiesce_) {
    phase_ = WorkerPhase::kRunning;
    actions.send.push_back(Running{epoch_, times});
  }
  if (evaluated) actions.send.push_back(std::move(*evaluated));
  return actions;
}

WorkerActions WorkerState::step_done(StepDone done, std::vector<HeldShards> held) {
  held_ = std::move(held);
  begun_ = false;
  step_ = step_.next();
  // Said even when a Quiesce has come: the version exists, so its row must come before Quiesced.
  return say(std::move(done));
}

WorkerActions WorkerState::failed(Error error, std::vector<HeldShards> held) {
  held_ = std::move(held);
  begun_ = false;
  if (leave_) return {};
  // Also when the view ends: what its buffers hold cannot be read any more.
  if (spoils_worker(error.code)) return give_up(std::move(error));
  if (quiesce_) return {};  // aborted on purpose
  // The others may have more memory; that nobody has enough for a first step the coordinator sees.
  if (error.code == ErrorCode::kDataDiffers || error.code == ErrorCode::kDeviceMemory)
    return give_up(std::move(error));
  WorkerActions actions;
  actions.abort = true;  // peers notice at once instead of waiting for their deadlines
  if (phase_ != WorkerPhase::kIdle) phase_ = WorkerPhase::kBroken;
  if (breaks_view(error.code))
    actions.send.push_back(CommBroken{epoch_, step_, std::move(error)});
  else
    actions.send.push_back(Fatal{epoch_, std::move(error)});
  return actions;
}

Hello WorkerState::hello() const {
  return {kWorkerLinkVersion, slot_, pid_, job_key_, epoch_, phase_, step_, held_};
}

}  // namespace holdfast::train
