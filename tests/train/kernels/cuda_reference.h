// For tests that hold an operation on an accelerator against the CPU's: the CPU computes in double
// from what the device sees, inputs that are rounded to bf16.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "tests/train/kernels/cuda_kit.h"
#include "train/kernels/ops.h"

namespace holdfast::train::kernels {

// Of ||a - b|| / ||b||: rounding to bf16 alone is about 2e-3.
inline constexpr double kBf16Tolerance = 1e-2;
inline constexpr double kFloatTolerance = 1e-5;

template <class T>
std::vector<double> doubles(const std::vector<T>& values) {
  return {values.begin(), values.end()};
}

// The same operation again gives the same bits.
template <class T>
void expect_same_bits(const std::vector<T>& first, const std::vector<T>& second) {
  ASSERT_EQ(first.size(), second.size());
  if (first.empty()) return;
  EXPECT_EQ(std::memcmp(first.data(), second.data(), first.size() * sizeof(T)), 0);
}

}  // namespace holdfast::train::kernels
