// The embedding on an accelerator: rows bit by bit, and a gradient that sums equal tokens whether
// they are few or nearly all.
#include <limits>

#include "tests/train/kernels/cuda_reference.h"

namespace holdfast::train::kernels {
namespace {

using EmbeddingCuda = CudaTest;

enum class Tokens { kUniform, kFrequent, kOne };

struct Case {
  size_t rows, width, vocabulary;
  Tokens tokens;
};

const std::vector<Case> kCases = {{0, 64, 7, Tokens::kUniform},
                                  {1, 1, 1, Tokens::kUniform},
                                  {63, 5, 2, Tokens::kUniform},
                                  {64, 8, 3, Tokens::kOne},
                                  {65, 8, 3, Tokens::kOne},
                                  {128, 16, 2, Tokens::kUniform},
                                  {129, 1032, 300, Tokens::kFrequent},
                                  {1000, 33, 50304, Tokens::kFrequent},
                                  {4096, 768, 256, Tokens::kFrequent},
                                  {5000, 24, 256, Tokens::kOne},
                                  {32768, 768, 256, Tokens::kFrequent},
                                  {32768, 768, 50304, Tokens::kFrequent}};

std::string name(const Case& c) {
  return std::to_string(c.rows) + " x " + std::to_string(c.width) + " of " +
         std::to_string(c.vocabulary);
}

std::vector<int32_t> tokens(std::mt19937& random, const Case& c) {
  std::vector<int32_t> values(c.rows);
  std::uniform_real_distribution<double> unit(0, 1);
  for (int32_t& token : values) {
    double at = unit(random);
    if (c.tokens == Tokens::kFrequent) at = at * at * at * at;
    if (c.tokens == Tokens::kOne) at = 0.999;
    token = static_cast<int32_t>(at * static_cast<double>(c.vocabulary));
  }
  return values;
}

TEST_F(EmbeddingCuda, RowsMoveBitByBit) {
  for (const Case& c : kCases) {
    if (c.rows * c.width > size_t{1} << 22) continue;
    SCOPED_TRACE(name(c));
    std::mt19937 random(static_cast<unsigned>(c.rows + c.width));
    std::vector<float> table = random_values(random, c.vocabulary * c.width);
    const auto device_table = to_device_bf16(table);
    const std::vector<int32_t> token = tokens(random, c);
    const auto device_token = to_device(token);
    auto x = poisoned<Bf16>(c.rows * c.width);
    embedding(cuda(), {c.rows, c.width}, device_token.data(), device_table.data(), x.data());
    std::vector<float> expected(c.rows * c.width);
    embedding<float>(Cpu{}, {c.rows, c.width}, token.data(), table.data(), expected.data());
    EXPECT_EQ(to_host_float(x), expected);
  }
}

TEST_F(EmbeddingCuda, GradientSumsEqualTokens) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(name(c));
    std::mt19937 random(static_cast<unsigned>(c.rows * 3 + c.width));
    const RowShape shape = {c.rows, c.width};
    std::vector<float> dx = random_values(random, c.rows * c.width);
    const auto device_dx = to_device_bf16(dx);
    const std::vector<int32_t> token = tokens(random, c);
    const auto device_token = to_device(token);
    const std::vector<float> before(c.vocabulary * c.width, 0.25F);
    for (const Into into : {Into::kOverwrite, Into::kAdd}) {
      std::vector<double> expected = doubles(before);
      embedding_weight_gradient<double>(Cpu{}, shape, c.vocabulary, token.data(),
                                        doubles(dx).data(), into, expected.data());
      std::vector<float> first;
      for (int run = 0; run < 2; ++run) {
        auto dtable = into == Into::kAdd ? to_device(before) : poisoned<float>(before.size());
        embedding_weight_gradient(cuda(), shape, c.vocabulary, device_token.data(),
                                  device_dx.data(), into, dtable.data());
        std::vector<float> got = to_host(dtable);
        EXPECT_LT(relative_error(got, expected), kFloatTolerance);
        if (run == 0)
          first = std::move(got);
        else
          expect_same_bits(first, got);
      }
    }
  }
}

// Rows of small whole numbers: every order of the sum is exact, so each row must be.
TEST_F(EmbeddingCuda, NoRowIsLostOrCountedTwice) {
  for (const size_t rows : {1, 63, 64, 65, 127, 128, 129, 192, 1000}) {
    for (const unsigned distinct : {1U, 2U, 3U, 10U, 64U, 1000U}) {
      SCOPED_TRACE(std::to_string(rows) + " rows of " + std::to_string(distinct) + " tokens");
      std::mt19937 random(static_cast<unsigned>(rows) + distinct);
      const RowShape shape = {rows, 8};
      std::vector<int32_t> token(rows);
      for (int32_t& t : token) t = static_cast<int32_t>(random() % distinct);
      std::vector<float> dx(rows * shape.width);
      for (float& value : dx) value = static_cast<float>(random() % 16);
      const auto device_dx = to_device_bf16(dx);
      const auto device_token = to_device(token);
      auto dtable = poisoned<float>(distinct * shape.width);
      embedding_weight_gradient(cuda(), shape, distinct, device_token.data(), device_dx.data(),
                                Into::kOverwrite, dtable.data());
      std::vector<float> expected(distinct * shape.width);
      embedding_weight_gradient<float>(Cpu{}, shape, distinct, token.data(), dx.data(),
                                       Into::kOverwrite, expected.data());
      ASSERT_EQ(to_host(dtable), expected);
    }
  }
}

}  // namespace
}  // namespace holdfast::train::kernels
