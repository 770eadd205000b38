// A mutex that clang's -Wthread-safety understands. Members say GUARDED_BY(mutex_).
#pragma once

#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define HOLDFAST_TSA(x) __attribute__((x))
#else
#define HOLDFAST_TSA(x)
#endif
#define GUARDED_BY(x) HOLDFAST_TSA(guarded_by(x))
#define REQUIRES(x) HOLDFAST_TSA(requires_capability(x))
#define EXCLUDES(x) HOLDFAST_TSA(locks_excluded(x))

namespace holdfast {

class HOLDFAST_TSA(capability("mutex")) Mutex {
 public:
  void lock() HOLDFAST_TSA(acquire_capability()) { mutex_.lock(); }
  void unlock() HOLDFAST_TSA(release_capability()) { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

class HOLDFAST_TSA(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) HOLDFAST_TSA(acquire_capability(mutex)) : mutex_(mutex) {
    mutex_.lock();
  }
  ~MutexLock() HOLDFAST_TSA(release_capability()) { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// Waits on a Mutex that the caller holds through a MutexLock.
using CondVar = std::condition_variable_any;

}  // namespace holdfast
