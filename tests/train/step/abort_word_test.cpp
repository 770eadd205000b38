// The word that an accelerator reads has more than one owner.
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace holdfast::train
