// Cross-entropy on an accelerator: losses, their mean, and the gradient in place of the logits, for
// rows that fit into shared memory and rows that do not.
#include <limits>
#include <numeric>

#include "tests/train/kernels/cuda_reference.h"

namespace holdfast::train::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

const std::vector<RowShape> kShapes = {{0, 256},   {1, 1},      {3, 2},      {5, 7},
                                       {4, 256},   {33, 1000},  {2048, 256}, {17, 50304},
                                       {3, 50257}, {2, 131072}, {1, 130001}, {256, 50304}};

class CrossEntropyCuda : public CudaTest {
 protected:
  struct Outcome {
    std::vector<float> losses;
    double mean;
    std::vector<float> logits;  // or their gradients
  };
  Outcome run(RowShape shape, const std::vector<int32_t>& targets, std::vector<float> logits,
              std::optional<double> scale) {
    auto device_logits = to_device_bf16(logits);
    const auto device_targets = to_device(targets);
    auto losses = poisoned<float>(shape.rows);
    auto mean = poisoned<double>(1);
    cross_entropy(cuda(), shape, device_targets.data(), scale, device_logits.data(), losses.data(),
                  mean.data());
    return {to_host(losses), to_host(mean)[0], to_host_float(device_logits)};
  }
};

std::vector<int32_t> random_targets(std::mt19937& random, RowShape shape) {
  std::vector<int32_t> targets(shape.rows);
  for (int32_t& target : targets) target = static_cast<int32_t>(random() % shape.width);
  return targets;
}

// Without the targets' entries, which outweigh all others together.
template <class T>
std::vector<T> besides_targets(RowShape shape, const std::vector<int32_t>& targets,
                               std::vector<T> values) {
  for (size_t n = 0; n < shape.rows; ++n)
    values[n * shape.width + static_cast<size_t>(targets[n])] = 0;
  return values;
}

TEST_F(CrossEntropyCuda, IsTheCpusForEveryShape) {
  for (const RowShape shape : kShapes) {
    SCOPED_TRACE(std::to_string(shape.rows) + " x " + std::to_string(shape.width));
    std::mt19937 random(static_cast<unsigned>(shape.rows + shape.width));
    std::vector<float> logits = random_values(random, shape.rows * shape.width, 3.0F);
    for (float& value : logits) value = to_float(to_bf16(value));
    const std::vector<int32_t> targets = random_targets(random, shape);
    const double scale = 1024;
    std::vector<double> expected = doubles(logits), losses(shape.rows);
    double mean = -1;
    cross_entropy<double>(Cpu{}, shape, targets.data(), scale, expected.data(), losses.data(),
                          &mean);

    const Outcome got = run(shape, targets, logits, scale);
    EXPECT_LT(relative_error(got.losses, losses), kFloatTolerance);
    EXPECT_NEAR(got.mean, mean, 1e-5 * std::abs(mean) + 1e-6);
    EXPECT_LT(relative_error(got.logits, expected), kBf16Tolerance);
    EXPECT_LT(relative_error(besides_targets(shape, targets, got.logits),
                             besides_targets(shape, targets, expected)),
              kBf16Tolerance);
    const Outcome again = run(shape, targets, logits, scale);
    expect_same_bits(got.losses, again.losses);
    expect_same_bits(got.logits, again.logits);
    EXPECT_EQ(got.mean, again.mean);

    const Outcome only_losses = run(shape, targets, logits, std::nullopt);
    EXPECT_EQ(only_losses.logits, logits);
    EXPECT_LT(relative_error(only_losses.losses, losses), kFloatTolerance);
    EXPECT_NEAR(only_losses.mean, mean, 1e-5 * std::abs(mean) + 1e-6);
  }
}

TEST_F(CrossEntropyCuda, MeanIsOfTheLossesInDouble) {
  const RowShape shape = {3001, 40};
  std::mt19937 random(3);
  const std::vector<float> logits = random_values(random, shape.rows * shape.width);
  const Outcome got = run(shape, random_targets(random, shape), logits, 1.0);
  const double sum = std::accumulate(got.losses.begin(), got.losses.end(), 0.0);
  EXPECT_NEAR(got.mean, sum / 3001, 1e-12);
}

TEST_F(CrossEntropyCuda, ImprobableTargetHasAFiniteLoss) {
  const RowShape shape = {2, 16};
  std::vector<float> logits(32, 0.0F);
  logits[3] = 300;
  logits[16 + 5] = -300;
  const Outcome got = run(shape, {0, 5}, logits, 2.0);
  EXPECT_NEAR(got.losses[0], 300, 1e-3);
  EXPECT_NEAR(got.losses[1], 300 + std::log(15.0), 1e-3);
  EXPECT_EQ(got.logits[0], -1.0F);
  EXPECT_EQ(got.logits[3], 1.0F);
}

// All of a thread's first elements, too.
TEST_F(CrossEntropyCuda, MaskedLogitsHaveNoProbability) {
  for (const size_t width : {64, 70, 50304}) {
    SCOPED_TRACE(width);
    const RowShape shape = {1, width};
    std::vector<float> logits(width, -kInfinity);
    logits[width - 1] = 1;
    logits[width - 2] = 1;
    const Outcome got = run(shape, {static_cast<int32_t>(width - 1)}, logits, 1.0);
    EXPECT_NEAR(got.losses[0], std::log(2.0), 1e-6);
    EXPECT_EQ(got.logits[0], 0.0F);
    EXPECT_EQ(got.logits[width - 1], -0.5F);
    EXPECT_EQ(got.logits[width - 2], 0.5F);
  }
}

TEST_F(CrossEntropyCuda, NanIsNotHidden) {
  const RowShape shape = {1, 64};
  std::vector<float> logits(64, 0.0F);
  logits[40] = std::numeric_limits<float>::quiet_NaN();
  const Outcome got = run(shape, {0}, logits, 1.0);
  EXPECT_TRUE(std::isnan(got.losses[0]));
  EXPECT_TRUE(std::isnan(got.mean));
}

class LargeHeadCuda : public CrossEntropyCuda {};

// More than 2^31 logits, of which the last rows are looked at: an index of 32 bits would meet others.
TEST_F(LargeHeadCuda, IsRightInTheLastRowsBeyondTwoToThe31) try {
  constexpr size_t kRows = 65536, kWidth = 64, kVocabulary = 50304, kLooked = 3;
  static_assert(kRows * kVocabulary > size_t{1} << 31);
  std::mt19937 random(21);
  auto x = random_values(random, kRows * kWidth, 0.3F);
  auto w = random_values(random, kVocabulary * kWidth);
  const auto x_device = to_device_bf16(x), w_device = to_device_bf16(w);
  const RowShape shape = {kRows, kVocabulary};
  const std::vector<int32_t> targets = random_targets(random, shape);
  const auto targets_device = to_device(targets);
  DeviceBuffer<Bf16> logits(kRows * kVocabulary);
  zero(cuda(), logits.data(), logits.size());
  linear(cuda(), {kRows, kWidth, kVocabulary}, x_device.data(), w_device.data(), nullptr,
         logits.data());
  const auto last_rows = [&] {
    PinnedBuffer<Bf16> host(kLooked * kVocabulary);
    download(cuda(), logits.data() + (kRows - kLooked) * kVocabulary, host.size(), host.data());
    EXPECT_TRUE(cuda().finish());
    std::vector<float> values(host.size());
    std::transform(host.data(), host.data() + host.size(), values.begin(), to_float);
    return values;
  };
  const std::vector<float> made = last_rows();
  std::vector<double> want(made.size(), 0.0);
  for (size_t n = 0; n < kLooked; ++n)
    for (size_t v = 0; v < kVocabulary; ++v)
      for (size_t i = 0; i < kWidth; ++i)
        want[n * kVocabulary + v] += static_cast<double>(x[(kRows - kLooked + n) * kWidth + i]) *
                                     static_cast<double>(w[v * kWidth + i]);
  EXPECT_LT(relative_error(made, want), kBf16Tolerance);

  const double scale = kRows;  // gradients of the size of probabilities
  auto losses = poisoned<float>(kRows);
  auto mean = poisoned<double>(1);
  cross_entropy(cuda(), shape, targets_device.data(), scale, logits.data(), losses.data(),
                mean.data());
  std::vector<double> expected = doubles(made), expected_losses(kLooked);
  const std::vector<int32_t> last(targets.end() - kLooked, targets.end());
  double unused = 0;
  cross_entropy<double>(Cpu{}, {kLooked, kVocabulary}, last.data(), kLooked, expected.data(),
                        expected_losses.data(), &unused);
  const std::vector<float> all = to_host(losses);
  EXPECT_LT(relative_error(std::vector<float>(all.end() - kLooked, all.end()), expected_losses),
            kFloatTolerance);
  EXPECT_LT(relative_error(last_rows(), expected), kBf16Tolerance);
  EXPECT_NEAR(to_host(mean)[0], std::accumulate(all.begin(), all.end(), 0.0) / kRows, 1e-9);
} catch (const OutOfDeviceMemory& memory) {
  GTEST_SKIP() << "needs 6.7 GB of device memory, " << memory.bytes << " bytes of it are not there";
}

}  // namespace
}  // namespace holdfast::train::kernels
