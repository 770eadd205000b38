// A mutex, its lock and its condition variable, which clang's -Wthread-safety understands; other compilers
// see nothing of it. A member says GUARDED_BY(mutex_) and is touched only while the mutex is held, a
// function that is called with it held says REQUIRES(mutex_), one that takes it itself EXCLUDES(mutex_).
// tests/style/thread_safety.sh holds the code against it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define HOLDFAST_TSA(x) __attribute__((x))
#else
#define HOLDFAST_TSA(x)
#endif
#define GUARDED_BY(x) HOLDFAST_TSA(guarded_by(x))
#define PT_GUARDED_BY(x) HOLDFAST_TSA(pt_guarded_by(x))  // what the pointer points to
#define REQUIRES(x) HOLDFAST_TSA(requires_capability(x))
#define EXCLUDES(x) HOLDFAST_TSA(locks_excluded(x))

namespace holdfast {

class HOLDFAST_TSA(capability("mutex")) Mutex {
 public:
  void lock() HOLDFAST_TSA(acquire_capability()) { mutex_.lock(); }
  void unlock() HOLDFAST_TSA(release_capability()) { mutex_.unlock(); }
  // Said by the one thread that changes what this guards: it may read that without the lock, from here
  // to the end of the function. Does nothing, and does not let it write.
  void only_writer_reads() const HOLDFAST_TSA(assert_shared_capability(this)) {}

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

// Waits on a Mutex that the caller holds. No predicates: the analysis sees the lock in a while loop, but
// not in a lambda. A wait may end without cause.
class CondVar {
 public:
  void wait(Mutex& mutex) REQUIRES(mutex) { changed_.wait(mutex); }
  template <class Clock, class Duration>
  std::cv_status wait_until(Mutex& mutex, const std::chrono::time_point<Clock, Duration>& deadline)
      REQUIRES(mutex) {
    return changed_.wait_until(mutex, deadline);
  }
  template <class Rep, class Period>
  std::cv_status wait_for(Mutex& mutex, const std::chrono::duration<Rep, Period>& time)
      REQUIRES(mutex) {
    return changed_.wait_for(mutex, time);
  }
  void notify_one() { changed_.notify_one(); }
  void notify_all() { changed_.notify_all(); }

 private:
  std::condition_variable_any changed_;
};

}  // namespace holdfast
