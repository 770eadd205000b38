#include "train/worker/worker_core.h"

#include <fmt/format.h>
#include <unistd.h>

#include <utility>

#include "base/fault_point.h"

namespace holdfast::train {
namespace {

int64_t ms_between(std::chrono::steady_clock::time_point begin,
                   std::chrono::steady_clock::time_point end) {
  return std::chrono::round<std::chrono::milliseconds>(end - begin).count();
}

}  // namespace

WorkerCore::WorkerCore(WorkerOptions options, LaneParts parts, ProgressRecord& record,
                       NoteFn on_note)
    : on_note_(std::move(on_note)),
      state_(options.slot, ::getpid()),
      lane_(std::move(parts), options.timeouts, record),
      link_(std::move(options.link),
            {[this] {
               MutexLock lock(mutex_);
               return state_.hello();
             },
             [this](const ToWorker& message) { on_message(message); },
             [this](std::string why) { leave(std::move(why)); }, on_note_}),
      capturer_(options.captures, [this](FromWorker report) { link_.send(std::move(report)); },
                [this](Error error) { device_broke(std::move(error)); }) {}

WorkerCore::~WorkerCore() { link_.stop(); }

// What must happen at once happens here, on the thread that heard of it; the order of the actions is
// the state's. Under the lock, so that messages leave in the order of the transitions.
void WorkerCore::apply(const WorkerActions& actions) {
  if (actions.abort) {
    if (!aborted_) aborted_ = std::chrono::steady_clock::now();
    lane_.abort();
  }
  if (actions.cancel_captures) capturer_.cancel();
  for (const FromWorker& message : actions.send) link_.send(message);
  if (actions.capture) capturer_.order(*actions.capture);
  for (const std::string& note : actions.notes) on_note_(note);
}

void WorkerCore::on_message(const ToWorker& message) {
  MutexLock lock(mutex_);
  apply(state_.on_message(message));
  changed_.notify_all();
}

void WorkerCore::leave(std::string why) {
  MutexLock lock(mutex_);
  apply(state_.leave(std::move(why)));
  changed_.notify_all();
}

void WorkerCore::device_broke(Error error) {
  MutexLock lock(mutex_);
  apply(state_.of_no_use(std::move(error)));
  changed_.notify_all();
}

std::string WorkerCore::run() {
  link_.start();
  while (true) {
    const WorkerTask task = next_task();
    if (const auto* leave = std::get_if<Leave>(&task)) {
      const Pulse::Waiting waiting(lane_.pulse());
      link_.flush();  // a Fatal, or rows of the ledger
      return leave->why;
    }
    std::visit([this](const auto& t) { carry_out(t); }, task);
  }
}

WorkerTask WorkerCore::next_task() {
  const Pulse::Waiting waiting(lane_.pulse());
  MutexLock lock(mutex_);
  while (true) {
    WorkerActions actions;
    auto task = state_.next_task(actions);
    apply(actions);
    if (task) return std::move(*task);
    changed_.wait(mutex_);
  }
}

void WorkerCore::carry_out(const OpenJob& task) {
  auto opened = lane_.open_job(task.welcome);
  MutexLock lock(mutex_);
  apply(opened ? state_.job_opened(lane_.steps()) : state_.of_no_use(std::move(opened).error()));
}

void WorkerCore::carry_out(const BecomeIdle& task) {
  fault_point("worker.quiesce");
  const auto ended = std::chrono::steady_clock::now();
  lane_.close_view();
  const auto closed = std::chrono::steady_clock::now();
  auto captured = closed;
  Status usable;
  {
    const Pulse::Waiting waiting(lane_.pulse());
    capturer_.cancel_and_wait();
    captured = std::chrono::steady_clock::now();
    usable = lane_.check_device();
  }
  auto held = lane_.held();
  MutexLock lock(mutex_);
  if (const auto since = std::exchange(aborted_, std::nullopt))
    on_note_(fmt::format("epoch {}: idle after {} ms; work under way ended after {}, the view was closed "
                         "after {}, captures had ended after {}",
                         to_string(task.epoch), ms_between(*since, std::chrono::steady_clock::now()),
                         ms_between(*since, ended), ms_between(*since, closed),
                         ms_between(*since, captured)));
  apply(usable ? state_.idle(task.epoch, std::move(held))
               : state_.of_no_use(std::move(usable).error()));
  if (!state_.ending()) lane_.clear_abort();
}

void WorkerCore::carry_out(const RestoreShards& task) {
  auto done = lane_.restore(task.restore);
  // No capture can be under way: its version is not made before Go.
  if (!done.error)
    capturer_.open(lane_.capture_target(), [this](Version version, int64_t max_wait_ms) {
      return lane_.protect(version, max_wait_ms);
    });
  auto held = lane_.held();
  MutexLock lock(mutex_);
  if (done.error)
    apply(state_.restore_failed({task.restore.epoch, std::move(done.bad), std::move(*done.error)},
                                std::move(held)));
  else
    apply(state_.restored(task.restore, std::move(done.comm_address), std::move(held)));
}

void WorkerCore::carry_out(const StartRunning& task) {
  auto started = lane_.start(task.go);
  std::optional<StepDone> evaluated;
  if (started) {
    capturer_.set_version(lane_.version());
    evaluated = lane_.take_finished();
    if (const std::string path = lane_.payload_path(); !path.empty()) on_note_(path);
  }
  auto held = lane_.held();
  MutexLock lock(mutex_);
  apply(started ? state_.running(lane_.times(), std::move(evaluated))
                : state_.failed(std::move(started).error(), std::move(held)));
}

void WorkerCore::carry_out(const RunStep& task) {
  auto done = lane_.run_step(task.step);
  // The version may exist although what came after it failed: its row is said, then the failure.
  auto finished = done ? std::optional(std::move(*done)) : lane_.take_finished();
  auto held = lane_.held();
  {
    MutexLock lock(mutex_);
    if (finished) apply(state_.step_done(std::move(*finished), held));
    if (!done) apply(state_.failed(std::move(done).error(), std::move(held)));
  }
  // Only now: who hears that a version is safe has heard of the step that made it.
  if (finished) capturer_.set_version(lane_.version());
}

}  // namespace holdfast::train
