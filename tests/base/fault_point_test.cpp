// How a test arms a fault point. The variable is read once a process, so every case has its own.
#include "base/fault_point.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace holdfast {
namespace {

// Passes the points one after the other; exits with the number passed before one failed by error.
[[noreturn]] void pass(const char* armed, const std::string& points) {
  if (armed != nullptr) setenv("HOLDFAST_FAULT", armed, 1);
  int passed = 0;
  for (const char point : points) {
    if (fault_point_fails(std::string(1, point))) _exit(100 + passed);
    ++passed;
  }
  _exit(passed);
}

TEST(FaultPointDeathTest, StrikesAtTheNamedPassOnly) {
  EXPECT_EXIT(pass(nullptr, "aaa"), testing::ExitedWithCode(3), "");
  EXPECT_EXIT(pass("", "aaa"), testing::ExitedWithCode(3), "");
  EXPECT_EXIT(pass("a", "bba"), testing::KilledBySignal(SIGKILL), "");
  EXPECT_EXIT(pass("a:3", "abab"), testing::ExitedWithCode(4), "");
  EXPECT_EXIT(pass("a:3", "ababa"), testing::KilledBySignal(SIGKILL), "");
  EXPECT_EXIT(pass("a:2:error", "bbaba"), testing::ExitedWithCode(104), "");
}

TEST(FaultPointDeathTest, TheSecondOfAChainCountsFromTheFirstOn) {
  EXPECT_EXIT(pass("a:2+b:1:error", "bbab"), testing::ExitedWithCode(4), "");
  EXPECT_EXIT(pass("a:2+b:1:error", "bbaabb"), testing::ExitedWithCode(104), "");
  EXPECT_EXIT(pass("a:1+a:1:error", "ba"), testing::ExitedWithCode(2), "");
  EXPECT_EXIT(pass("a:1+a:1:error", "baa"), testing::ExitedWithCode(102), "");
  EXPECT_EXIT(pass("a+b+c:2:error", "cabcacc"), testing::ExitedWithCode(105), "");
}

}  // namespace
}  // namespace holdfast
