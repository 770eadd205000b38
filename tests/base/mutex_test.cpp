#include "base/mutex.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

namespace holdfast {
namespace {

using std::chrono::steady_clock;

struct Counter {
  Mutex mutex;
  CondVar changed;
  int count GUARDED_BY(mutex) = 0;

  int read() EXCLUDES(mutex) {
    const MutexLock lock(mutex);
    return count;
  }
};

TEST(Mutexes, ThreadsTakeTurns) {
  constexpr int kThreads = 4, kTurns = 2'000;
  Counter counter;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < kTurns; ++i) {
        const MutexLock lock(counter.mutex);
        const int before = counter.count;
        std::this_thread::yield();  // an update would be lost here
        counter.count = before + 1;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counter.read(), kThreads * kTurns);
}

TEST(CondVars, AWaitLetsOthersInAndHoldsTheMutexAgainWhenItReturns) {
  Counter counter;
  std::thread other;
  {
    const MutexLock lock(counter.mutex);
    other = std::thread([&] {
      {
        const MutexLock inner(counter.mutex);  // only once the wait below gives it up
        counter.count = 1;
      }
      counter.changed.notify_all();
    });
    const auto deadline = steady_clock::now() + std::chrono::seconds(30);
    while (counter.count == 0)
      if (counter.changed.wait_until(counter.mutex, deadline) == std::cv_status::timeout) break;
    EXPECT_EQ(counter.count, 1);
    counter.count = 2;
  }
  other.join();
  EXPECT_EQ(counter.read(), 2);
}

TEST(CondVars, WaitsThatNobodyEndsEndInTime) {
  Counter counter;
  const MutexLock lock(counter.mutex);
  const auto begin = steady_clock::now();
  const std::chrono::milliseconds time(5);
  while (counter.changed.wait_for(counter.mutex, time) != std::cv_status::timeout) {
  }
  EXPECT_GE(steady_clock::now() - begin, time);
  EXPECT_EQ(counter.changed.wait_until(counter.mutex, begin), std::cv_status::timeout);
}

}  // namespace
}  // namespace holdfast
