// What a worker is allowed to do next: a pure state machine, message in, actions out. The daemon's
// messages come in through on_message, the main thread asks next_task what to do and tells the outcome.
// No clock, no thread, no I/O: WorkerCore guards it with one mutex and carries the actions out.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "train/worker/messages.h"

namespace holdfast::train {

struct WorkerActions {
  bool abort = false;            // set the abort word, abort communicator and connect
  bool cancel_captures = false;
  std::vector<FromWorker> send;  // in this order
  std::optional<Capture> capture;
  std::vector<std::string> notes;  // for the log: ignored messages and why
};

// What the main thread does next.
struct OpenJob {
  Welcome welcome;
};
struct BecomeIdle {
  Epoch epoch;
};
struct RestoreShards {
  Restore restore;
};
struct StartRunning {
  Go go;
};
struct RunStep {
  Step step;
};
struct Leave {
  std::string why;
};
using WorkerTask = std::variant<OpenJob, BecomeIdle, RestoreShards, StartRunning, RunStep, Leave>;

class WorkerState {
 public:
  WorkerState(uint32_t slot, int64_t pid) : slot_(slot), pid_(pid) {}

  WorkerActions on_message(const ToWorker& message);
  // Ends the process at the next task; aborts what is under way.
  WorkerActions leave(std::string why);

  // nullopt: wait for a message. A returned task has begun: its outcome must be told. `actions` gets
  // what is to be said because of standing still (Stopped).
  std::optional<WorkerTask> next_task(WorkerActions& actions);

  // Outcomes, from the main thread. A failure of what a newer Quiesce aborted is not reported.
  WorkerActions job_opened(uint64_t steps);
  // The worker cannot open its job, or its device is broken: Fatal of no epoch, then it leaves. No
  // Quiesce is answered any more.
  WorkerActions of_no_use(Error error);
  WorkerActions idle(Epoch epoch, std::vector<HeldShards> held);
  WorkerActions restored(const Restore& restore, std::string comm_address,
                         std::vector<HeldShards> held);
  WorkerActions restore_failed(RestoreFailed failure, std::vector<HeldShards> held);
  // evaluated: the last step's row, whose evaluation was made up for.
  WorkerActions running(const RestoreTimes& times, std::optional<StepDone> evaluated = {});
  WorkerActions step_done(StepDone done, std::vector<HeldShards> held);
  // Connecting, materializing or a step failed. With kDataDiffers, a broken device, or too little memory
  // as after of_no_use: the others can do without it, and a worker is started in its place.
  WorkerActions failed(Error error, std::vector<HeldShards> held);

  Hello hello() const;
  // A Quiesce or an end was asked for and not answered: what runs is to stay aborted.
  bool ending() const { return quiesce_ || leave_; }
  WorkerPhase phase() const { return phase_; }
  Epoch epoch() const { return epoch_; }

 private:
  WorkerActions on(const Welcome& message);
  WorkerActions on(const Quiesce& message);
  WorkerActions on(const Restore& message);
  WorkerActions on(const Go& message);
  WorkerActions on(const Capture& message);
  WorkerActions on(const StopAt& message);
  WorkerActions on(const Exit& message);
  WorkerActions give_up(Error error);
  bool current(Epoch epoch) const { return !quiesce_ && epoch == epoch_; }
  bool must_stop() const;

  const uint32_t slot_;
  const int64_t pid_;
  std::string job_key_;
  uint64_t steps_ = 0;  // of the job
  Epoch epoch_;         // of the open view, or the last quiesced into
  WorkerPhase phase_ = WorkerPhase::kIdle;
  Step step_;            // begun or next
  bool begun_ = false;   // between RunStep and its outcome
  bool prepared_ = false;  // Restored was said, Go may come
  std::optional<Step> stop_at_;
  std::vector<HeldShards> held_;

  // Asked for and not begun.
  std::optional<Welcome> welcome_;
  std::optional<Epoch> quiesce_;  // also while BecomeIdle is under way
  std::optional<Restore> restore_;
  std::optional<Go> go_;
  std::optional<std::string> leave_;
};

// Errors after which this process is of no use, while another one on the node may be.
bool spoils_worker(ErrorCode code);
// Errors that mean "the view is broken, a new one will mend it"; all others are fatal.
bool breaks_view(ErrorCode code);

}  // namespace holdfast::train
