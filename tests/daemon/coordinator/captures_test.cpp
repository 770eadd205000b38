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

TEST_F(CapturesTest, TimeRunsFromWhenTheVersionWasMade) {
  const auto named = captures_.name(Version(0), Version(1'000));
  EXPECT_TRUE(captures_.late(0, Version(0), 60'000).empty());
  EXPECT_TRUE(captures_.late(300'000, Version(0), 60'000).empty()) << "a long step";
  EXPECT_TRUE(captures_.late(300'001, Version(1), 60'000).empty()) << "made now";
  EXPECT_EQ(captures_.late(360'001, Version(1), 60'000), std::vector<Named>{*named});
}

TEST_F(CapturesTest, AnswersToAnEarlierNamingDoNotCount) {
  const Named first = captures_.name_now(Version(7));
  ASSERT_TRUE(captures_.missed(first));
  const Named second = captures_.name_now(Version(7));
  EXPECT_NE(first, second);
  EXPECT_FALSE(captures_.missed(first));
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
  EXPECT_FALSE(captures_.missed(older));
}

}  // namespace
}  // namespace holdfast::daemon
