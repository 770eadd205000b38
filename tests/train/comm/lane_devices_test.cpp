// Whether NCCL can be used between lanes follows from what all of them told.
#include "train/comm/lane_devices.h"

#include <gtest/gtest.h>

#include <vector>

namespace holdfast::train {
namespace {

LaneDevice device(uint8_t number, uint32_t version = 22803) {
  LaneDevice one;
  one.uuid[15] = number;
  one.nccl_version = version;
  return one;
}

std::string why(std::vector<LaneDevice> lanes) { return why_not_nccl(lanes).value_or(""); }

TEST(LaneDevices, UseNcclWhereEachHasItsOwn) {
  EXPECT_FALSE(why_not_nccl(std::vector{device(1), device(2), device(3)}));
}

TEST(LaneDevices, ThatAreSharedGoThroughHostMemory) {
  EXPECT_EQ(why({device(1), device(2), device(1)}), "lanes 0 and 2 share one accelerator");
}

TEST(LaneDevices, WithoutNcclOrWithAnotherOneGoThroughHostMemory) {
  EXPECT_EQ(why({device(1), device(2, 0)}), "lane 1 cannot use NCCL");
  EXPECT_EQ(why({device(1), device(2, 22809)}), "lane 0 has NCCL 2.28.3, lane 1 has 2.28.9");
}

}  // namespace
}  // namespace holdfast::train
