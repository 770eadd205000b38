// Nobody waits for a teardown who need not, everybody who must does, and no wait is without a limit.
#include "base/teardowns.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <latch>

namespace holdfast {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
constexpr milliseconds kLong{20'000}, kShort{20};

TEST(Teardowns, BeginsAtOnceAndLetsGoOnWhoeverBeganIt) {
  Teardowns all(kLong);
  std::thread::id entered, worked;
  const auto one = all.take([&] { entered = std::this_thread::get_id(); });
  ASSERT_NE(one, nullptr);
  std::latch begun(1), may_end(1);
  one->begin([&] {
    worked = std::this_thread::get_id();
    begun.count_down();
    may_end.wait();
  });
  begun.wait();  // while the work cannot end
  EXPECT_FALSE(one->wait_until(steady_clock::now() + kShort));
  EXPECT_FALSE(all.wait_for(kShort));
  may_end.count_down();
  EXPECT_TRUE(all.wait_for(kLong));
  EXPECT_TRUE(one->wait_until(steady_clock::now()));
  EXPECT_EQ(entered, worked) << "what the thread entered is there for the work";
  EXPECT_NE(worked, std::this_thread::get_id());
}

// NCCL frees memory in an abort, which waits for what another communicator still has running.
TEST(Teardowns, OfSeveralRunBesideEachOther) {
  Teardowns all(kLong);
  std::latch together(3);
  std::vector<std::shared_ptr<Teardown>> some;
  for (int i = 0; i < 3; ++i) some.push_back(all.take([] {}));
  for (const auto& one : some) one->begin([&] { together.arrive_and_wait(); });
  EXPECT_TRUE(all.wait_for(kLong));
}

TEST(Teardowns, ThatHaveNotBegunAreNotWaitedForAndEndWithTheirOwner) {
  const auto begun = steady_clock::now();
  {
    Teardowns all(kLong);
    const auto ahead = all.take([] {}), none = all.take([] {}), over = all.take([] {});
    std::atomic<bool> done = false;
    over->begin([&] { done = true; });
    none->dismiss();
    EXPECT_TRUE(all.wait_for(kLong));
    EXPECT_TRUE(done);
    over->dismiss();  // too late, and nothing
    EXPECT_TRUE(ahead->wait_until(steady_clock::now()));
  }
  EXPECT_LT(steady_clock::now() - begun, kLong);
}

TEST(Teardowns, AnOwnerWaitsForWhatHasBegun) {
  std::atomic<bool> done = false;
  std::latch begun(1);
  {
    Teardowns all(kLong);
    all.take([] {})->begin([&] {
      begun.count_down();
      std::this_thread::sleep_for(kShort);  // longer than a destructor that did not wait
      done = true;
    });
    begun.wait();
  }
  EXPECT_TRUE(done);
}

TEST(Teardowns, OneThatDoesNotEndIsLeftToItselfAfterTheLimit) {
  const auto ended = std::make_shared<std::promise<void>>();
  const auto may_end = std::make_shared<std::latch>(1);
  const auto begun = steady_clock::now();
  {
    Teardowns all(milliseconds(100));
    all.take([] {})->begin([=] {
      may_end->wait();
      ended->set_value();
    });
  }
  EXPECT_GE(steady_clock::now() - begun, milliseconds(100));
  EXPECT_LT(steady_clock::now() - begun, kLong);
  may_end->count_down();
  EXPECT_EQ(ended->get_future().wait_for(kLong), std::future_status::ready) << "it outlived its owner";
}

}  // namespace
}  // namespace holdfast
