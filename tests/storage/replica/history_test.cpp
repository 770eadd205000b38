#include "storage/replica/history.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

namespace holdfast::storage {
namespace {

StateVersion state(uint64_t version, uint32_t made) { return {Version(version), Epoch{1, made}}; }
ViewBase view(uint32_t epoch, StateVersion base) { return {Epoch{1, epoch}, base}; }

TEST(History, WithoutViewsNothingIsVoid) { EXPECT_FALSE(is_void(state(7, 3), {})); }

TEST(History, AStateAboveTheBaseOfALaterViewIsVoid) {
  const std::vector<ViewBase> history = {view(1, state(0, 0)), view(2, state(5, 1))};
  EXPECT_FALSE(is_void(state(4, 1), history));
  EXPECT_FALSE(is_void(state(5, 1), history)) << "the base itself";
  EXPECT_TRUE(is_void(state(6, 1), history));
  EXPECT_FALSE(is_void(state(6, 2), history)) << "computed anew";
}

TEST(History, ABaseIsVoidOnceALaterViewWentBelowIt) {
  const std::vector<ViewBase> history = {view(1, state(0, 0)), view(2, state(5, 1)),
                                         view(3, state(4, 1))};
  EXPECT_TRUE(is_void(state(5, 1), history));
  EXPECT_TRUE(is_void(state(6, 2), history));
  EXPECT_TRUE(is_void(state(5, 2), history));
  EXPECT_FALSE(is_void(state(4, 1), history));
  EXPECT_FALSE(is_void(state(5, 3), history));
}

TEST(History, TheSameVersionOfAnotherLineIsVoidEvenWhenItsViewsAreForgotten) {
  const std::vector<ViewBase> history = {
      view(9, state(10, 4))};  // began late: views 1 .. 8 unknown
  EXPECT_FALSE(is_void(state(10, 4), history));
  EXPECT_TRUE(is_void(state(10, 3), history));
  EXPECT_TRUE(is_void(state(10, 6), history));
  EXPECT_TRUE(is_void(state(9, 6), history)) << "version 10 was made in view 4, so 9 was not later";
  EXPECT_FALSE(is_void(state(9, 2), history));
}

TEST(History, AViewMadeNothingAtOrBelowItsBase) {
  const std::vector<ViewBase> history = {view(2, state(5, 1))};
  EXPECT_TRUE(is_void(state(5, 2), history));
  EXPECT_TRUE(is_void(state(4, 2), history));
  EXPECT_FALSE(is_void(state(6, 2), history));
}

TEST(History, WhatIsNewerThanEveryKnownViewIsNotVoid) {
  const std::vector<ViewBase> history = {view(2, state(5, 1))};
  EXPECT_FALSE(is_void(state(3, 7), history));
}

TEST(History, TheInitialStateIsTheSameOnEveryLine) {
  const std::vector<ViewBase> history = {view(1, state(0, 1)), view(2, state(5, 1))};
  for (uint32_t made : {0, 1, 2, 3}) EXPECT_FALSE(is_void(state(0, made), history));
}

TEST(History, AnIncarnationOrdersBeforeTheNumber) {
  const std::vector<ViewBase> history = {{Epoch{2, 1}, StateVersion{Version(3), Epoch{1, 90}}}};
  EXPECT_FALSE(is_void({Version(3), Epoch{1, 90}}, history));
  EXPECT_TRUE(is_void({Version(4), Epoch{1, 90}}, history));
  EXPECT_TRUE(is_void({Version(4), Epoch{1, 99}}, history));
  EXPECT_FALSE(is_void({Version(4), Epoch{2, 1}}, history));
}

// What really happened: every state ever made knows its parent. A state is void exactly when it is
// not an ancestor of the newest base nor made by the newest view.
class Walk {
 public:
  explicit Walk(uint64_t seed) : random_(seed) {}

  void next_view() {
    const std::vector<StateVersion> line = current_line();
    // Mostly close to the end, sometimes far back.
    const size_t back = std::min<size_t>(line.size() - 1, random_() % (random_() % 4 == 0 ? 8 : 2));
    const StateVersion base = line[line.size() - 1 - back];
    epoch_ = Epoch{random_() % 20 == 0 ? epoch_.incarnation + 1 : epoch_.incarnation,
                   epoch_.number + 1 + static_cast<uint32_t>(random_() % 2)};
    history_.push_back({epoch_, base});
    tip_ = base;
    for (uint64_t steps = random_() % 5; steps > 0; --steps) {
      const StateVersion made{tip_.version.next(), epoch_};
      parent_[made] = tip_;
      tip_ = made;
    }
  }

  std::vector<StateVersion> current_line() const {
    std::vector<StateVersion> line = {tip_};
    while (parent_.contains(line.back())) line.push_back(parent_.at(line.back()));
    std::reverse(line.begin(), line.end());
    return line;
  }

  std::set<StateVersion> all() const {
    std::set<StateVersion> states;
    for (const auto& [child, parent] : parent_) states.insert(child);
    return states;
  }

  const std::vector<ViewBase>& history() const { return history_; }

 private:
  std::mt19937_64 random_;
  Epoch epoch_{1, 0};
  StateVersion tip_{Version(0), Epoch{1, 0}};
  std::map<StateVersion, StateVersion> parent_;
  std::vector<ViewBase> history_;
};

TEST(History, VoidIsExactlyWhatIsNotOnTheCurrentLine) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Walk walk(seed);
    for (int views = 0; views < 25; ++views) {
      walk.next_view();
      const std::vector<StateVersion> line = walk.current_line();
      const std::set<StateVersion> valid(line.begin(), line.end());
      for (const StateVersion& s : walk.all()) {
        ASSERT_EQ(is_void(s, walk.history()), !valid.contains(s))
            << "seed " << seed << ", view " << views << ", " << to_string(s);
      }
    }
  }
}

TEST(History, AShortenedHistoryVoidsNoStateOfTheLineAndLeavesOneStatePerKnownVersion) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Walk walk(seed);
    for (int views = 0; views < 25; ++views) walk.next_view();
    const std::vector<ViewBase> newest(walk.history().end() - 4, walk.history().end());
    for (const StateVersion& s : walk.current_line())
      ASSERT_FALSE(is_void(s, newest)) << "seed " << seed << ", " << to_string(s);
    Version known = newest.back().base.version;
    for (const ViewBase& v : newest) known = std::min(known, v.base.version);
    std::map<Version, int> left;
    for (const StateVersion& s : walk.all())
      if (s.version >= known && !is_void(s, newest)) ++left[s.version];
    for (const auto& [version, count] : left)
      ASSERT_EQ(count, 1) << "seed " << seed << ", version " << version.value;
  }
}

}  // namespace
}  // namespace holdfast::storage
