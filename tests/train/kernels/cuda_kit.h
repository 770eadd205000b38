// For tests of kernels on an accelerator: tensors that exist on both sides, and how far two are apart.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/cuda_devices.h"
#include "train/kernels/ops_cuda.h"

namespace holdfast::train::kernels {

class CudaTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto opened = Cuda::open(0);
    if (opened) cuda_ = std::move(*opened);
    else why_ = opened.error().to_string();
  }
  static void TearDownTestSuite() { cuda_.reset(); }
  void SetUp() override {
    if (!cuda_) {
      test::cannot_test(1, why_);
      GTEST_SKIP() << why_;
    }
    cuda_->use();
  }
  void TearDown() override {
    if (!cuda_) return;
    const Status finished = cuda_->finish();
    EXPECT_TRUE(finished) << finished.error().to_string();
  }
  Cuda& cuda() { return *cuda_; }

  template <class T>
  DeviceBuffer<T> to_device(const std::vector<T>& host) {
    PinnedBuffer<T> pinned(host.size());
    if (!host.empty()) std::memcpy(pinned.data(), host.data(), host.size() * sizeof(T));
    DeviceBuffer<T> device(host.size());
    upload_bytes(cuda(), pinned.data(), host.size() * sizeof(T), device.data());
    EXPECT_TRUE(cuda().finish());
    return device;
  }
  // Rounds to bf16 on the way; `values` becomes what the device sees.
  DeviceBuffer<Bf16> to_device_bf16(std::vector<float>& values) {
    std::vector<Bf16> rounded(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      rounded[i] = to_bf16(values[i]);
      values[i] = to_float(rounded[i]);
    }
    return to_device(rounded);
  }
  // Filled with bytes that are NaN in every type: what is not written is found.
  template <class T>
  DeviceBuffer<T> poisoned(size_t elements) {
    std::vector<T> bad(elements);
    if (elements > 0) std::memset(static_cast<void*>(bad.data()), 0xff, elements * sizeof(T));
    return to_device(bad);
  }
  template <class T>
  std::vector<T> to_host(const DeviceBuffer<T>& device) {
    PinnedBuffer<T> pinned(device.size());
    download_bytes(cuda(), device.data(), device.size() * sizeof(T), pinned.data());
    EXPECT_TRUE(cuda().finish());
    return {pinned.data(), pinned.data() + pinned.size()};
  }
  std::vector<float> to_host_float(const DeviceBuffer<Bf16>& device) {
    const std::vector<Bf16> raw = to_host(device);
    std::vector<float> values(raw.size());
    std::transform(raw.begin(), raw.end(), values.begin(), to_float);
    return values;
  }

 private:
  static inline std::unique_ptr<Cuda> cuda_;
  static inline std::string why_;
};

inline std::vector<float> random_values(std::mt19937& random, size_t count, float scale = 1.0F) {
  std::normal_distribution<float> normal(0.0F, scale);
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

// ||a - b|| / ||b||; NaN anywhere never passes a comparison with it.
template <class A, class B>
double relative_error(const std::vector<A>& a, const std::vector<B>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

}  // namespace holdfast::train::kernels
