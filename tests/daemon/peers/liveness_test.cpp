#include "daemon/peers/liveness.h"

#include <gtest/gtest.h>

namespace holdfast::daemon {
namespace {

const NodeId kA("node-a");
const NodeId kB("node-b");

TEST(Liveness, TellsOnceWhoMissedAllHeartbeats) {
  Liveness liveness(100, 5);
  liveness.heard(kA, 0);
  liveness.heard(kB, 0);
  for (int64_t now = 100; now < 500; now += 100) {
    liveness.heard(kB, now);
    EXPECT_TRUE(liveness.check(now).empty()) << now;
  }
  const auto silent = liveness.check(500);
  ASSERT_EQ(silent.size(), 1u);
  EXPECT_EQ(silent[0].node, kA);
  EXPECT_EQ(silent[0].silent_ms, 500);
  EXPECT_TRUE(liveness.check(600).empty());
}

TEST(Liveness, ADetectorThatWasLateStartsAnewBeforeItJudges) {
  Liveness liveness(100, 5);
  liveness.heard(kA, 0);
  EXPECT_TRUE(liveness.check(100).empty());
  EXPECT_TRUE(liveness.check(10'000).empty());  // it slept, not the node
  for (int64_t now = 10'100; now < 10'500; now += 100) EXPECT_TRUE(liveness.check(now).empty());
  EXPECT_EQ(liveness.check(10'500).size(), 1u);
}

TEST(Liveness, ALittleLateIsNoExcuse) {
  Liveness liveness(100, 5);
  liveness.heard(kA, 0);
  EXPECT_TRUE(liveness.check(200).empty());
  EXPECT_TRUE(liveness.check(400).empty());
  EXPECT_EQ(liveness.check(600).size(), 1u);
}

TEST(Liveness, AForgottenNodeIsNotMissed) {
  Liveness liveness(100, 2);
  liveness.heard(kA, 0);
  liveness.forget(kA);
  EXPECT_TRUE(liveness.check(150).empty());
  EXPECT_TRUE(liveness.check(300).empty());
}

}  // namespace
}  // namespace holdfast::daemon
