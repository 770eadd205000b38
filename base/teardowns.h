// Ends that take long and that nobody needs to wait for at once: each runs on a thread of its own, which
// is taken when what will end begins, so that an end cannot fail for want of one. Whoever needs them to be
// over waits, with a limit.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace holdfast {

// One end, ahead or under way. All of it from any thread.
class Teardown {
 public:
  // Its thread does `work`, which must not throw; returns at once. Once, and not after dismiss().
  void begin(std::function<void()> work) EXCLUDES(mutex_);
  // There will be nothing to do. Does nothing once it has begun.
  void dismiss() EXCLUDES(mutex_);
  // False: it has begun and is not over by then.
  bool wait_until(std::chrono::steady_clock::time_point deadline) EXCLUDES(mutex_);

 private:
  friend class Teardowns;
  enum class Phase : unsigned char { kAhead, kBegun, kOver };
  void run() EXCLUDES(mutex_);
  bool is_over() EXCLUDES(mutex_);

  Mutex mutex_;
  CondVar changed_;
  Phase phase_ GUARDED_BY(mutex_) = Phase::kAhead;
  std::function<void()> work_ GUARDED_BY(mutex_);
};

// Those of one owner, who outlives what ends. Not thread-safe.
class Teardowns {
 public:
  explicit Teardowns(std::chrono::milliseconds limit) : limit_(limit) {}
  // Dismisses what has not begun and waits for the rest, `limit` in all; the thread of one that is not
  // over then is left to itself.
  ~Teardowns();
  Teardowns(const Teardowns&) = delete;
  Teardowns& operator=(const Teardowns&) = delete;

  // `enter` runs on its thread first. nullptr: no thread can be had.
  std::shared_ptr<Teardown> take(std::function<void()> enter);
  // Whether all that have begun are over, waiting for them until `deadline`.
  bool wait_until(std::chrono::steady_clock::time_point deadline);
  bool wait_for(std::chrono::milliseconds most) {
    return wait_until(std::chrono::steady_clock::now() + most);
  }

 private:
  struct Taken {
    std::shared_ptr<Teardown> teardown;
    std::thread thread;
  };
  void forget_over();

  const std::chrono::milliseconds limit_;
  std::vector<Taken> taken_;
};

}  // namespace holdfast
