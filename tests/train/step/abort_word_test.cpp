// The word that an accelerator reads has more than one owner.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "train/step/trainer.h"

namespace holdfast::train {
namespace {

TEST(AbortWords, SetAndClearTheirOwnBitOfTheDevicesWord) {
  constexpr uint32_t kBit = AbortWord::kBit, kOther = 2;
  AbortWord word;
  std::atomic<uint32_t> device{kOther};
  word.set();
  word.mirror(&device);
  EXPECT_EQ(device.load(), kBit | kOther) << "it was set before";
  word.clear();
  EXPECT_EQ(device.load(), kOther) << "what broke in the view stays broken";
  EXPECT_FALSE(word.is_set());
  word.set();
  device.fetch_and(~kOther);
  EXPECT_EQ(device.load(), kBit);
  word.mirror(nullptr);
  word.clear();
  EXPECT_EQ(device.load(), kBit) << "it follows no more";
}

using Clock = std::chrono::steady_clock;

TEST(AbortWords, EndAWaitAtOnce) {
  AbortWord word;
  const auto begun = Clock::now();
  std::thread setter([&] { word.set(); });
  EXPECT_TRUE(word.wait_until(begun + std::chrono::minutes(2)));
  setter.join();
  EXPECT_TRUE(word.wait_until(begun + std::chrono::minutes(2))) << "it is set already";
  EXPECT_LT(Clock::now() - begun, std::chrono::minutes(1));
}

TEST(AbortWords, LetAWaitTakeItsTime) {
  AbortWord word;
  const auto until = Clock::now() + std::chrono::milliseconds(30);
  word.clear();
  EXPECT_FALSE(word.wait_until(until));
  EXPECT_GE(Clock::now(), until);
  EXPECT_FALSE(word.wait_until(until)) << "that is over";
}

}  // namespace
}  // namespace holdfast::train
