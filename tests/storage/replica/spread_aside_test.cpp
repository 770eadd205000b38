#include "storage/replica/spread_aside.h"

#include <gtest/gtest.h>

#include <deque>
#include <utility>
#include <vector>

namespace holdfast::storage {
namespace {

// Keeps what is given to it until the test lets one go.
class HeldExecutor final : public Executor {
 public:
  explicit HeldExecutor(size_t helpers) : helpers_(helpers) {}
  void post(std::function<void()> action) override { posted_.push_back(std::move(action)); }
  void aside(std::function<void()> work, std::function<void()> done) override {
    aside_.emplace_back(std::move(work), std::move(done));
  }
  size_t helpers() const override { return helpers_; }
  void after_ms(int64_t, std::function<void()> action) override { post(std::move(action)); }

  size_t under_way() const { return aside_.size(); }
  void finish_oldest() {
    const auto [work, done] = std::move(aside_.front());
    aside_.pop_front();
    work();
    done();
  }
  void run_posted() {
    for (const auto& action : std::exchange(posted_, {})) action();
  }

 private:
  size_t helpers_;
  std::deque<std::pair<std::function<void()>, std::function<void()>>> aside_;
  std::vector<std::function<void()>> posted_;
};

struct Seen {
  std::vector<int> calls;
  int done = 0;
};

void start(HeldExecutor& executor, size_t count, Seen& run) {
  run.calls.assign(count, 0);
  spread_aside(executor, count, [&run](size_t i) { ++run.calls[i]; }, [&run] { ++run.done; });
}

TEST(SpreadAside, each_is_done_once_and_the_end_is_told_once_after_all) {
  for (const size_t helpers : {0, 1, 2, 5, 100}) {
    HeldExecutor executor(helpers);
    Seen run;
    start(executor, 23, run);
    size_t rounds = 0;
    while (executor.under_way() > 0) {
      EXPECT_EQ(run.done, 0) << "with " << executor.under_way() << " under way";
      executor.finish_oldest();
      ASSERT_LT(++rounds, 100U);
    }
    EXPECT_EQ(run.calls, std::vector<int>(23, 1)) << helpers << " helpers";
    EXPECT_EQ(run.done, 1);
  }
}

TEST(SpreadAside, one_helper_is_left_to_others) {
  for (const auto& [helpers, at_once] : {std::pair<size_t, size_t>{4, 3}, {2, 1}, {1, 1}, {64, 8}}) {
    HeldExecutor executor(helpers);
    Seen run;
    start(executor, 50, run);
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(executor.under_way(), at_once) << helpers << " helpers";
      executor.finish_oldest();
    }
  }
}

TEST(SpreadAside, the_end_of_nothing_comes_later_too) {
  HeldExecutor executor(4);
  Seen run;
  start(executor, 0, run);
  EXPECT_EQ(run.done, 0) << "nobody is called from inside his own call";
  executor.run_posted();
  EXPECT_EQ(run.done, 1);
}

}  // namespace
}  // namespace holdfast::storage
