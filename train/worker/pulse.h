// The progress page's heartbeat. The counter moves when the main thread marks progress, and by itself
// only while it waits for others (a collective, a connect, a capture, the next message). A main
// thread that computes without progress freezes the counter; so does SIGSTOP, since both threads stop.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>

#include "base/ids.h"
#include "base/mutex.h"
#include "train/worker/progress_page.h"

namespace holdfast::train {

inline constexpr int64_t kPulseMs = 20;

class Pulse {
 public:
  // `on_beat` is called on the pulse's thread every kPulseMs, whatever the main thread does.
  explicit Pulse(ProgressRecord& record, std::function<void()> on_beat = {});
  ~Pulse();
  Pulse(const Pulse&) = delete;
  Pulse& operator=(const Pulse&) = delete;

  // Of the thread that computes. waiting: it waits for others from now on, until the next mark.
  void mark(Step step, uint32_t round, bool waiting);
  void mark();  // also of threads that work for it
  // Lasts while the main thread waits for others. Main thread only; may be nested.
  class Waiting {
   public:
    explicit Waiting(Pulse& pulse) : pulse_(pulse) { pulse_.wait(+1); }
    ~Waiting() { pulse_.wait(-1); }
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;

   private:
    Pulse& pulse_;
  };

 private:
  void wait(int change);
  void beat();

  ProgressRecord& record_;
  const std::function<void()> on_beat_;
  std::atomic<int> waits_{0};
  std::atomic<bool> trainer_waits_{false};
  Mutex mutex_;
  CondVar ended_;
  bool ending_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace holdfast::train
