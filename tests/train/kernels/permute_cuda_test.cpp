// Dispatch and combine on an accelerator: rows move bit by bit, sums and dots are the CPU's.
#include <numeric>

#include "tests/train/kernels/cuda_reference.h"

namespace holdfast::train::kernels {
namespace {

const std::vector<CombineShape> kShapes = {
    {0, 2, 64},     {1, 1, 1},    {5, 2, 7},   {33, 2, 768}, {17, 8, 1024},  {9, 4, 136},
    {12, 16, 2056}, {3, 3, 5000}, {40, 3, 33}, {6, 2, 2048}, {32768, 2, 768}};

std::string name(const CombineShape& s) {
  return std::to_string(s.tokens) + " tokens, top " + std::to_string(s.top_k) + ", width " +
         std::to_string(s.width);
}

class PermuteCuda : public CudaTest {
 protected:
  static std::vector<uint32_t> permutation(std::mt19937& random, size_t count) {
    std::vector<uint32_t> order(count);
    std::iota(order.begin(), order.end(), 0U);
    std::shuffle(order.begin(), order.end(), random);
    return order;
  }
};

TEST_F(PermuteCuda, PlacesChoicesByExpert) {
  for (const RouterShape shape : {RouterShape{0, 16, 2},
                                  {1, 1, 1},
                                  {5, 33, 3},
                                  {100, 16, 2},
                                  {9, 256, 16},
                                  {32768, 64, 8},
                                  {10, 31, 2},
                                  {10, 32, 2}}) {
    SCOPED_TRACE(std::to_string(shape.tokens) + " x " + std::to_string(shape.experts));
    std::mt19937 random(static_cast<unsigned>(shape.tokens + shape.experts));
    std::vector<uint32_t> choices(shape.choices());
    for (uint32_t& choice : choices) choice = static_cast<uint32_t>(random() % shape.experts) / 2;
    std::vector<uint32_t> counts(shape.experts), rank(shape.choices()), first(shape.experts + 1),
        row(shape.choices()), token(shape.choices());
    count_choices(Cpu{}, shape, choices.data(), counts.data(), rank.data());
    // Half of the experts take what they are sent, the others less.
    std::vector<uint32_t> most(counts);
    for (size_t e = 0; e < most.size(); e += 2) most[e] = static_cast<uint32_t>(random() % 9);
    const auto device_counts = to_device(counts);
    const auto device_most = to_device(most);
    const auto device_choices = to_device(choices);
    const auto device_rank = to_device(rank);
    for (const bool capacity : {false, true}) {
      first_rows(Cpu{}, shape.experts, counts.data(), capacity ? most.data() : nullptr,
                 first.data());
      fill_no_rows(Cpu{}, token.data(), token.size());
      place_choices(Cpu{}, shape, choices.data(), rank.data(), first.data(), row.data(),
                    token.data());
      auto device_first = poisoned<uint32_t>(shape.experts + 1);
      auto device_row = poisoned<uint32_t>(shape.choices());
      DeviceBuffer<uint32_t> device_token(shape.choices());
      first_rows(cuda(), shape.experts, device_counts.data(),
                 capacity ? device_most.data() : nullptr, device_first.data());
      fill_no_rows(cuda(), device_token.data(), shape.choices());
      place_choices(cuda(), shape, device_choices.data(), device_rank.data(), device_first.data(),
                    device_row.data(), device_token.data());
      EXPECT_EQ(to_host(device_first), first);
      EXPECT_EQ(to_host(device_row), row);
      EXPECT_EQ(to_host(device_token), token);
    }
  }
}

TEST_F(PermuteCuda, RowsMoveBitByBit) {
  for (const CombineShape& shape : kShapes) {
    SCOPED_TRACE(name(shape));
    std::mt19937 random(static_cast<unsigned>(shape.tokens + shape.width));
    const RowShape rows = {shape.tokens * shape.top_k, shape.width};
    std::vector<float> in = random_values(random, shape.tokens * shape.width);
    const auto device_in = to_device_bf16(in);
    std::vector<uint32_t> index(rows.rows);
    for (uint32_t& i : index)
      i = random() % 5 == 0 ? kNoRow : static_cast<uint32_t>(random() % shape.tokens);
    const auto device_index = to_device(index);
    auto gathered = poisoned<Bf16>(rows.rows * rows.width);
    gather_rows(cuda(), rows, device_index.data(), device_in.data(), gathered.data());
    std::vector<float> expected(rows.rows * rows.width);
    gather_rows<float>(Cpu{}, rows, index.data(), in.data(), expected.data());
    const std::vector<float> gathered_host = to_host_float(gathered);
    EXPECT_EQ(gathered_host, expected);

    std::vector<float> cleared = random_values(random, rows.rows * rows.width);
    const auto device_cleared = to_device_bf16(cleared);
    auto device_out = poisoned<Bf16>(cleared.size());
    copy(cuda(), device_cleared.data(), cleared.size(), device_out.data());
    clear_rows(cuda(), rows, device_index.data(), device_out.data());
    clear_rows<float>(Cpu{}, rows, index.data(), cleared.data());
    EXPECT_EQ(to_host_float(device_out), cleared);

    std::vector<uint32_t> order = permutation(random, rows.rows);
    for (uint32_t& to : order)
      if (random() % 5 == 0) to = kNoRow;
    const auto device_order = to_device(order);
    auto scattered = poisoned<Bf16>(rows.rows * rows.width);
    zero(cuda(), scattered.data(), scattered.size());
    std::fill(expected.begin(), expected.end(), 0.0F);
    scatter_rows(cuda(), rows, device_order.data(), gathered.data(), scattered.data());
    scatter_rows<float>(Cpu{}, rows, order.data(), gathered_host.data(), expected.data());
    EXPECT_EQ(to_host_float(scattered), expected);
  }
}

TEST_F(PermuteCuda, CombineAndItsGradients) {
  for (const CombineShape& shape : kShapes) {
    SCOPED_TRACE(name(shape));
    std::mt19937 random(static_cast<unsigned>(shape.tokens * 3 + shape.width));
    const size_t choices = shape.tokens * shape.top_k;
    std::vector<float> rows = random_values(random, choices * shape.width);
    std::vector<float> x = random_values(random, shape.tokens * shape.width);
    std::vector<float> dy = random_values(random, shape.tokens * shape.width);
    const std::vector<float> gates = random_values(random, choices);
    std::vector<uint32_t> row = permutation(random, choices);
    for (uint32_t& of_choice : row)
      if (random() % 5 == 0) of_choice = kNoRow;
    const auto device_rows = to_device_bf16(rows);
    const auto device_x = to_device_bf16(x);
    const auto device_dy = to_device_bf16(dy);
    const auto device_gates = to_device(gates);
    const auto device_row = to_device(row);

    std::vector<double> expected_y(x.size()), expected_drows(rows.size()), expected_dgates(choices),
        expected_dx(x.size());
    const std::vector<double> gates64 = doubles(gates), rows64 = doubles(rows);
    combine<double>(Cpu{}, shape, row.data(), gates64.data(), rows64.data(), doubles(x).data(),
                    expected_y.data());
    combine_input_gradient<double>(Cpu{}, shape, row.data(), gates64.data(), rows64.data(),
                                   doubles(dy).data(), expected_drows.data(),
                                   expected_dgates.data());
    dispatch_input_gradient<double>(Cpu{}, shape, row.data(), rows64.data(), expected_dx.data());

    std::vector<Bf16> first_y, first_drows, first_dx;
    std::vector<float> first_dgates;
    for (int run = 0; run < 2; ++run) {
      auto y = poisoned<Bf16>(x.size());
      auto drows = poisoned<Bf16>(rows.size());
      zero(cuda(), drows.data(), drows.size());  // rows of no choice stay
      auto dgates = poisoned<float>(choices);
      auto dx = poisoned<Bf16>(x.size());
      combine(cuda(), shape, device_row.data(), device_gates.data(), device_rows.data(),
              device_x.data(), y.data());
      combine_input_gradient(cuda(), shape, device_row.data(), device_gates.data(),
                             device_rows.data(), device_dy.data(), drows.data(), dgates.data());
      dispatch_input_gradient(cuda(), shape, device_row.data(), device_rows.data(), dx.data());
      EXPECT_LT(relative_error(to_host_float(y), expected_y), kBf16Tolerance);
      EXPECT_LT(relative_error(to_host_float(drows), expected_drows), kBf16Tolerance);
      EXPECT_LT(relative_error(to_host(dgates), expected_dgates), kFloatTolerance);
      EXPECT_LT(relative_error(to_host_float(dx), expected_dx), kBf16Tolerance);
      if (run == 0) {
        first_y = to_host(y);
        first_drows = to_host(drows);
        first_dgates = to_host(dgates);
        first_dx = to_host(dx);
      } else {
        expect_same_bits(first_y, to_host(y));
        expect_same_bits(first_drows, to_host(drows));
        expect_same_bits(first_dgates, to_host(dgates));
        expect_same_bits(first_dx, to_host(dx));
      }
    }
  }
}

}  // namespace
}  // namespace holdfast::train::kernels
