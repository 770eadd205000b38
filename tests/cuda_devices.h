// Tests of accelerators on machines without them: skipped, and told so, unless HOLDFAST_NEED_DEVICES=n in
// the environment says that there are n devices. Then one that does not open makes the test fail.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "train/kernels/cuda.h"

namespace holdfast::test {

constexpr int kAllSkipped = 77;  // exit code (tests/cuda_main.cpp)

// Where no device opens at all a program tests next to nothing, whatever else passes.
inline bool no_device_opened = false;

inline uint64_t needed_devices() {
  const char* needed = std::getenv("HOLDFAST_NEED_DEVICES");
  return needed == nullptr ? 0 : std::strtoull(needed, nullptr, 10);
}

// Of a test that must skip because `count` devices do not open; it fails where they must. Fatally: a test
// whose SetUp failed otherwise, and skipped, would still run.
inline void cannot_test(uint32_t count, const std::string& why) {
  if (count == 1) no_device_opened = true;
  if (count <= needed_devices())
    FAIL() << "HOLDFAST_NEED_DEVICES is " << needed_devices() << ", but: " << why;
}

}  // namespace holdfast::test

namespace holdfast::train {

// Empty: devices 0 .. count - 1 can be used. Else skip, with this reason.
inline std::string missing_devices(uint32_t count) {
  const auto last = kernels::Cuda::open(count - 1);
  if (last) return {};
  const auto needed = static_cast<uint32_t>(test::needed_devices());
  if (0 < needed && needed < count) missing_devices(needed);  // those must be there all the same
  test::cannot_test(count, last.error().to_string());
  return last.error().to_string();
}

}  // namespace holdfast::train
