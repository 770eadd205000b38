#include "daemon/coordinator/captures.h"

#include <gtest/gtest.h>

namespace holdfast::daemon {
namespace {

using Named = Captures::Named;

class CapturesTest : public testing::Test {
 protected:
  CapturesTest() { captures_.open(2, 5); }
  std::optional<Version> name(uint64_t newest, uint64_t last = 1'000) {
    const auto named = captures_.name(Version(newest), Version(last));
    if (!named) return std::nullopt;
    return named->version;
  }
  // The only one under way, by both lanes.
  bool make_safe() {
    const std::vector<Named> all = captures_.under_way();
    if (all.size() != 1) return false;
    std::vector<Version> abandoned;
    return !captures_.replicated(0, all[0], abandoned) && captures_.replicated(1, all[0], abandoned);
  }
  Captures captures_{{.under_way = 2, .most_lead = 16}, 100};
  std::vector<Version> abandoned_;
};

TEST_F(CapturesTest, NamesOnlyWhatIsMadeSoon) {
  EXPECT_EQ(name(0), Version(1));
  for (uint64_t newest = 1; newest < 4; ++newest) EXPECT_EQ(name(newest), std::nullopt);
  EXPECT_EQ(name(4), Version(6));
}

TEST_F(CapturesTest, TheLastVersionIsNamedWhateverTheDistance) {
  EXPECT_EQ(name(0), Version(1));
  EXPECT_EQ(name(1, 4), std::nullopt);
  EXPECT_EQ(name(2, 4), Version(4));
}

TEST_F(CapturesTest, WhoWasToldTooLateIsToldEarlier) {
  captures_.open(2, 1);
  for (uint64_t newest = 0; newest < 40; ++newest)
    EXPECT_TRUE(captures_.missed(*captures_.name(Version(newest * 20), Version(10'000)), true));
  const uint64_t lead = name(1'000, 10'000)->value - 1'000;
  EXPECT_EQ(lead, 16u) << "and no further";
  // One that comes in time is no reason to be told later at once.
  EXPECT_TRUE(make_safe());
  EXPECT_EQ(name(2'000, 10'000), Version(2'016));
  for (int i = 0; i < 31; ++i) {
    EXPECT_TRUE(make_safe());
    (void)name(2'000 + (i + 1) * 20, 10'000);
  }
  EXPECT_EQ(name(3'000, 10'000), Version(3'015));
}

TEST_F(CapturesTest, WhatKeepsFailingIsTriedLessOftenAndNotFurtherAhead) {
  captures_.open(2, 1);
  uint32_t named = 0;
  for (uint64_t newest = 0; newest < 320; ++newest)
    while (const auto next = captures_.name(Version(newest), Version(1'000))) {
      ++named;
      EXPECT_LE(next->version.value, newest + 2);
      captures_.missed(*next, false);
    }
  EXPECT_LT(named, 20u) << "5 + 320 / 32";
  EXPECT_GT(named, 10u);
  // The first that is kept ends that.
  const auto next = captures_.name(Version(400), Version(1'000));
  ASSERT_TRUE(next);
  EXPECT_TRUE(make_safe());
  EXPECT_EQ(name(401), Version(402));
}

TEST_F(CapturesTest, TimeRunsFromWhenTheVersionWasMade) {
  const auto named = captures_.name(Version(0), Version(1'000));
  EXPECT_TRUE(captures_.late(0, Version(0), 60'000).empty());
  EXPECT_TRUE(captures_.late(300'000, Version(0), 60'000).empty()) << "a long step";
  EXPECT_TRUE(captures_.late(300'001, Version(1), 60'000).empty()) << "made now";
  EXPECT_EQ(captures_.late(360'001, Version(1), 60'000), std::vector<Named>{*named});
}

TEST_F(CapturesTest, AnswersToAnEarlierNamingDoNotCount) {
  const Named first = captures_.name_now(Version(7));
  ASSERT_TRUE(captures_.missed(first, false));
  const Named second = captures_.name_now(Version(7));
  EXPECT_NE(first, second);
  EXPECT_FALSE(captures_.missed(first, false));
  EXPECT_FALSE(captures_.replicated(0, second, abandoned_));
  EXPECT_FALSE(captures_.replicated(1, first, abandoned_)) << "its blocks were freed since";
  EXPECT_TRUE(captures_.is_under_way(Version(7)));
  EXPECT_TRUE(captures_.replicated(1, second, abandoned_));
}

TEST_F(CapturesTest, ASafeVersionAbandonsOlderOnes) {
  const Named older = captures_.name_now(Version(4));
  const Named newer = captures_.name_now(Version(5));
  EXPECT_FALSE(captures_.replicated(0, newer, abandoned_));
  EXPECT_TRUE(captures_.replicated(1, newer, abandoned_));
  EXPECT_EQ(abandoned_, std::vector<Version>{Version(4)});
  EXPECT_FALSE(captures_.missed(older, false));
}

}  // namespace
}  // namespace holdfast::daemon
