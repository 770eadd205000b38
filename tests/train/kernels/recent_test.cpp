// Of what was made for many keys only what was used lately is kept.
#include "train/kernels/recent.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

namespace holdfast::train::kernels {
namespace {

TEST(Recent, KeepsWhatWasUsedLastAndForgetsTheRest) {
  Recent<int, int> recent(3);
  for (const int key : {1, 2, 3}) EXPECT_TRUE(recent.get(key, 10 * key).second);
  EXPECT_FALSE(recent.get(1, 99).second);
  EXPECT_EQ(recent.get(1, 99).first, 10);
  EXPECT_TRUE(recent.get(4, 40).second);  // 2 goes
  for (const int key : {1, 3, 4}) EXPECT_EQ(recent.get(key, 99).first, 10 * key);
  EXPECT_TRUE(recent.get(2, 21).second);
  EXPECT_EQ(recent.size(), 3U);
}

TEST(Recent, WhatGoesIsDestroyedAndItsNumberHasALimit) {
  const auto alive = std::make_shared<int>(0);
  Recent<int, std::shared_ptr<int>> recent(5);
  for (int round = 0; round < 3; ++round)
    for (int key = 0; key < 100; ++key) recent.get(key, alive);
  EXPECT_EQ(recent.size(), 5U);
  EXPECT_EQ(alive.use_count(), 6);
}

TEST(Recent, OneIsEnough) {
  Recent<int, int> recent(1);
  EXPECT_EQ(recent.get(1, 10).first, 10);
  EXPECT_EQ(recent.get(2, 20).first, 20);
  EXPECT_EQ(recent.get(2, 99).first, 20);
  EXPECT_TRUE(recent.get(1, 11).second);
}

}  // namespace
}  // namespace holdfast::train::kernels
