// AdamW on an accelerator gives the CPU's bits; so do sums and conversions of fp32.
#include <limits>

#include "tests/train/kernels/cuda_reference.h"

namespace holdfast::train::kernels {
namespace {

constexpr float kDecay = 0.1F;

const std::vector<size_t> kSizes = {0, 1, 3, 4, 5, 1023, 4096, 1000003};

// Of update 7.
constexpr AdamwConstants kConstants = {.beta1 = 0.9F,
                                       .beta2 = 0.95F,
                                       .epsilon = 1e-8F,
                                       .rate = 3e-4F,
                                       .gradient_scale = 0.37F,
                                       .m_correction = 1.9167F,
                                       .v_correction = 3.3161F};

struct State {
  std::vector<float> master, m, v, gradient;
};

State state(size_t elements) {
  std::mt19937 random(static_cast<unsigned>(elements));
  State s = {random_values(random, elements), random_values(random, elements, 1e-3F),
             random_values(random, elements, 1e-3F), random_values(random, elements, 1e-2F)};
  for (float& v : s.v) v *= v;
  // Zero, and numbers below the least normal one.
  for (size_t i = 0; i < elements; i += 7) s.m[i] = s.v[i] = s.gradient[i] = 0;
  for (size_t i = 3; i < elements; i += 11) s.gradient[i] = 1e-22F, s.v[i] = 1e-42F;
  return s;
}

State on_cpu(const State& s) {
  State next = s;
  const AdamwRange<float> range{
      s.master.size(), kDecay,
      {s.master.data(), s.m.data(), s.v.data(), s.gradient.data(), next.master.data(),
       next.m.data(), next.v.data()}};
  adamw(Cpu{}, kConstants, {&range, 1});
  return next;
}

std::vector<Bf16> rounded(const std::vector<float>& values) {
  std::vector<Bf16> halves(values.size());
  std::transform(values.begin(), values.end(), halves.begin(), to_bf16);
  return halves;
}

class AdamwCuda : public CudaTest {
 protected:
  void update(size_t elements, const AdamwTensors<Bf16>& tensors) {
    const AdamwRange<Bf16> range{elements, kDecay, tensors};
    adamw(cuda(), kConstants, {&range, 1});
  }
};

TEST_F(AdamwCuda, IsTheCpusBitByBit) {
  for (const size_t elements : kSizes) {
    for (const bool with_weights : {true, false}) {
      SCOPED_TRACE(std::to_string(elements) + (with_weights ? " with weights" : ""));
      const State s = state(elements);
      const State expected = on_cpu(s);
      const auto master = to_device(s.master), m = to_device(s.m), v = to_device(s.v),
                 gradient = to_device(s.gradient);
      auto next_master = poisoned<float>(elements), next_m = poisoned<float>(elements),
           next_v = poisoned<float>(elements);
      auto weights = poisoned<Bf16>(elements);
      update(elements,
            AdamwTensors<Bf16>{master.data(), m.data(), v.data(), gradient.data(),
                               next_master.data(), next_m.data(), next_v.data(),
                               with_weights ? weights.data() : nullptr});
      expect_same_bits(to_host(next_master), expected.master);
      expect_same_bits(to_host(next_m), expected.m);
      expect_same_bits(to_host(next_v), expected.v);
      if (with_weights) expect_same_bits(to_host(weights), rounded(expected.master));
    }
  }
}

// As a model's shards: many, of any size, each with its decay, some of several chunks.
TEST_F(AdamwCuda, ManyRangesAtOnceAreEachAsTheCpus) {
  std::vector<State> states, expected;
  std::vector<std::vector<DeviceBuffer<float>>> device;
  std::vector<AdamwRange<Bf16>> ranges;
  std::vector<FloatRange> gradients;
  std::vector<double> expected_sums;
  for (size_t i = 0; i < 300; ++i) {
    states.push_back(state(i % 50 == 0 ? 70'000 + i : i));
    const State& s = states.back();
    State next = s;
    const float decay = i % 2 == 0 ? 0.0F : 0.3F;
    const AdamwRange<float> range{
        s.master.size(), decay,
        {s.master.data(), s.m.data(), s.v.data(), s.gradient.data(), next.master.data(),
         next.m.data(), next.v.data()}};
    adamw(Cpu{}, kConstants, {&range, 1});
    expected.push_back(next);
    const FloatRange gradient{s.gradient.data(), s.gradient.size()};
    expected_sums.push_back(-1);
    sum_squares(Cpu{}, {&gradient, 1}, &expected_sums.back());
    auto& d = device.emplace_back();
    for (const auto* values : {&s.master, &s.m, &s.v, &s.gradient}) d.push_back(to_device(*values));
    for (int run = 0; run < 3; ++run) d.push_back(poisoned<float>(s.master.size()));
    ranges.push_back({s.master.size(), decay,
                      {d[0].data(), d[1].data(), d[2].data(), d[3].data(), d[4].data(),
                       d[5].data(), d[6].data()}});
    gradients.push_back({d[3].data(), s.gradient.size()});
  }
  auto sums = poisoned<double>(gradients.size());
  sum_squares(cuda(), gradients, sums.data());
  adamw(cuda(), kConstants, ranges);
  const std::vector<double> got_sums = to_host(sums);
  for (size_t i = 0; i < states.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_NEAR(got_sums[i], expected_sums[i], 1e-12 * expected_sums[i]);
    expect_same_bits(to_host(device[i][4]), expected[i].master);
    expect_same_bits(to_host(device[i][5]), expected[i].m);
    expect_same_bits(to_host(device[i][6]), expected[i].v);
  }
}

TEST_F(AdamwCuda, InPlaceAndFromAnyElement) {
  const size_t elements = 10001;
  const State s = state(elements);
  const State expected = on_cpu(s);
  for (const size_t shift : {1, 2, 4}) {
    SCOPED_TRACE(shift);
    const auto shifted = [&](const std::vector<float>& values) {
      std::vector<float> padded(shift, -1.0F);
      padded.insert(padded.end(), values.begin(), values.end());
      return to_device(padded);
    };
    auto master = shifted(s.master), m = shifted(s.m), v = shifted(s.v);
    const auto gradient = shifted(s.gradient);
    auto weights = poisoned<Bf16>(elements + shift);
    update(elements,
          AdamwTensors<Bf16>{master.data() + shift, m.data() + shift, v.data() + shift,
                             gradient.data() + shift, master.data() + shift, m.data() + shift,
                             v.data() + shift, weights.data() + shift});
    std::vector<float> got = to_host(master);
    EXPECT_EQ(got[shift - 1], -1.0F);
    got.erase(got.begin(), got.begin() + static_cast<long>(shift));
    expect_same_bits(got, expected.master);
    std::vector<Bf16> halves = to_host(weights);
    EXPECT_EQ(halves[shift - 1].bits, 0xffff);
    halves.erase(halves.begin(), halves.begin() + static_cast<long>(shift));
    expect_same_bits(halves, rounded(expected.master));
  }
}

TEST_F(AdamwCuda, DoesNothingOnceTheAbortWordIsSet) {
  const size_t elements = 5000;
  const State s = state(elements);
  auto master = to_device(s.master), m = to_device(s.m), v = to_device(s.v);
  const auto gradient = to_device(s.gradient);
  cuda().abort_word() = 1;
  update(elements,
        AdamwTensors<Bf16>{master.data(), m.data(), v.data(), gradient.data(), master.data(),
                           m.data(), v.data()});
  EXPECT_TRUE(cuda().finish());
  cuda().abort_word() = 0;
  expect_same_bits(to_host(master), s.master);
  expect_same_bits(to_host(m), s.m);
  expect_same_bits(to_host(v), s.v);
}

TEST_F(AdamwCuda, ConversionRoundsToTheNearestEven) {
  for (const size_t elements : kSizes) {
    SCOPED_TRACE(elements);
    std::mt19937 random(static_cast<unsigned>(elements));
    std::vector<float> values = random_values(random, elements);
    // Ties, infinity, the largest float, a denormal.
    const std::vector<uint32_t> edges = {0x3f808000, 0x3f818000, 0x7f800000, 0x7f7fffff,
                                         0x00000001, 0x80008000, 0xff800000};
    for (size_t i = 0; i < std::min(edges.size(), elements); ++i)
      values[i] = std::bit_cast<float>(edges[i]);
    const auto from = to_device(values);
    auto to = poisoned<Bf16>(elements);
    convert(cuda(), from.data(), elements, to.data());
    expect_same_bits(to_host(to), rounded(values));
    if (elements == 0) continue;
    auto shifted = poisoned<Bf16>(elements - 1);
    convert(cuda(), from.data() + 1, elements - 1, shifted.data());
    expect_same_bits(to_host(shifted), rounded({values.begin() + 1, values.end()}));
  }
}

TEST_F(AdamwCuda, AddsAndSumsSquares) {
  for (const size_t elements : kSizes) {
    for (const size_t shift : {0, 1}) {
      SCOPED_TRACE(std::to_string(elements) + " from " + std::to_string(shift));
      std::mt19937 random(static_cast<unsigned>(elements));
      const std::vector<float> from = random_values(random, elements + shift);
      std::vector<float> expected = random_values(random, elements);
      auto to = to_device(expected);
      const auto device_from = to_device(from);
      add(cuda(), device_from.data() + shift, elements, to.data());
      add(Cpu{}, from.data() + shift, elements, expected.data());
      expect_same_bits(to_host(to), expected);

      double expected_sum = -1;
      const FloatRange host_range{from.data() + shift, elements};
      sum_squares(Cpu{}, {&host_range, 1}, &expected_sum);
      const FloatRange range{device_from.data() + shift, elements};
      std::vector<double> first;
      for (int run = 0; run < 2; ++run) {
        auto sum = poisoned<double>(1);
        sum_squares(cuda(), {&range, 1}, sum.data());
        const std::vector<double> got = to_host(sum);
        EXPECT_NEAR(got[0], expected_sum, 1e-12 * expected_sum);
        if (run == 0)
          first = got;
        else
          expect_same_bits(first, got);
      }
    }
  }
}

}  // namespace
}  // namespace holdfast::train::kernels
