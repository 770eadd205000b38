// The worker: WorkerState joined with the threads around it. The main thread drives the lane, the
// link thread talks to the daemon and aborts, the capture thread copies versions into the arena, the
// pulse thread keeps the progress counter moving while the main thread waits.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "base/mutex.h"
#include "train/snapshot/capturer.h"
#include "train/worker/daemon_link.h"
#include "train/worker/lane.h"
#include "train/worker/worker_state.h"

namespace holdfast::train {

struct WorkerOptions {
  uint32_t slot = 0;
  DaemonLinkOptions link;
  LaneTimeouts timeouts;
  CaptureLimits captures;
};

class WorkerCore {
 public:
  using NoteFn = std::function<void(const std::string& text)>;  // for the log; any thread

  // `record` must outlive this.
  WorkerCore(WorkerOptions options, LaneParts parts, ProgressRecord& record, NoteFn on_note);
  ~WorkerCore();
  WorkerCore(const WorkerCore&) = delete;
  WorkerCore& operator=(const WorkerCore&) = delete;

  // The main thread's life: serves the daemon until it is told to leave; returns why it left.
  std::string run() EXCLUDES(mutex_);
  // Any thread.
  void leave(std::string why) EXCLUDES(mutex_);

 private:
  WorkerTask next_task() EXCLUDES(mutex_);
  void carry_out(const OpenJob& task) EXCLUDES(mutex_);
  void carry_out(const BecomeIdle& task) EXCLUDES(mutex_);
  void carry_out(const RestoreShards& task) EXCLUDES(mutex_);
  void carry_out(const StartRunning& task) EXCLUDES(mutex_);
  void carry_out(const RunStep& task) EXCLUDES(mutex_);
  void carry_out(const Leave&) {}  // run() returns

  void on_message(const ToWorker& message) EXCLUDES(mutex_);
  void device_broke(Error error) EXCLUDES(mutex_);  // found by the capture thread
  void apply(const WorkerActions& actions) REQUIRES(mutex_);

  const NoteFn on_note_;
  Mutex mutex_;
  CondVar changed_;
  WorkerState state_ GUARDED_BY(mutex_);
  std::optional<std::chrono::steady_clock::time_point> aborted_ GUARDED_BY(mutex_);
  Lane lane_;
  DaemonLink link_;
  Capturer capturer_;
};

}  // namespace holdfast::train
