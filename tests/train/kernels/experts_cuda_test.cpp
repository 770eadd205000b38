// Experts against double loops: uneven and empty experts, one token, widths that no tile divides
// and that no grouped product takes, the largest sizes in a sample; the same bits twice.
#include <functional>
#include <string>

#include "tests/train/kernels/cuda_kit.h"

namespace holdfast::train::kernels {
namespace {

constexpr double kBf16 = 8e-3;  // bf16 in between and at the end
// The order of a sum, and that tensor cores cut off instead of rounding.
double fp32_tolerance(size_t terms) { return 5e-6 + 1e-8 * static_cast<double>(terms); }

struct Case {
  const char* name;
  size_t width, expert_width;
  std::vector<uint32_t> counts;  // rows of each expert
  size_t room = 0;               // rows beyond the last expert's
};

struct Tensors {
  ExpertShape shape;
  std::vector<uint32_t> first_row;
  size_t rows, stride;
  std::vector<float> weights, x, dy, gate_up, hidden;
};

// Repeats after a prime number of values: drawing all of a large tensor takes longer than its test.
std::vector<float> many_values(std::mt19937& random, size_t count, float scale = 1.0F) {
  constexpr size_t kPeriod = 1'000'003;
  std::vector<float> values = random_values(random, std::min(count, kPeriod), scale);
  values.reserve(count);
  while (values.size() < count) values.push_back(values[values.size() - kPeriod]);
  return values;
}

Tensors tensors_of(const Case& c, std::mt19937& random) {
  Tensors t{{c.width, c.expert_width}, {0}, 0, 0, {}, {}, {}, {}, {}};
  for (const uint32_t count : c.counts) t.first_row.push_back(t.first_row.back() + count);
  t.rows = t.first_row.back() + c.room;
  t.stride = 3 * c.width * c.expert_width + 16;  // room between experts
  t.weights = many_values(random, t.stride * c.counts.size(),
                          1.0F / std::sqrt(static_cast<float>(c.width)));
  t.x = many_values(random, t.rows * c.width);
  t.dy = many_values(random, t.rows * c.width);
  t.gate_up = many_values(random, t.rows * 2 * c.expert_width);
  t.hidden = many_values(random, t.rows * c.expert_width);
  return t;
}

double dot(const float* a, size_t a_step, const float* b, size_t b_step, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; ++i)
    sum += static_cast<double>(a[i * a_step]) * static_cast<double>(b[i * b_step]);
  return sum;
}
float rounded(double value) { return to_float(to_bf16(static_cast<float>(value))); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// What one row's F gives: gate and up, hidden, y.
struct RowForward {
  std::vector<float> gate_up, hidden;
  std::vector<double> y;
};
RowForward forward_row(const Tensors& t, size_t expert, size_t row) {
  const size_t width = t.shape.width, inner = t.shape.expert_width;
  const float* w = t.weights.data() + expert * t.stride;
  RowForward out;
  for (size_t o = 0; o < 2 * inner; ++o)
    out.gate_up.push_back(rounded(dot(&t.x[row * width], 1, w + o * width, 1, width)));
  for (size_t f = 0; f < inner; ++f) {
    const double gate = out.gate_up[f], up = out.gate_up[inner + f];
    out.hidden.push_back(rounded(gate * sigmoid(gate) * up));
  }
  for (size_t d = 0; d < width; ++d)
    out.y.push_back(dot(out.hidden.data(), 1, w + (2 * width + d) * inner, 1, inner));
  return out;
}

// And I, from t.gate_up and t.dy: the gradient of gate and up, then of x.
struct RowBackward {
  std::vector<float> gate_up;
  std::vector<double> x;
};
RowBackward backward_row(const Tensors& t, size_t expert, size_t row) {
  const size_t width = t.shape.width, inner = t.shape.expert_width;
  const float* w = t.weights.data() + expert * t.stride;
  RowBackward out;
  out.gate_up.resize(2 * inner);
  for (size_t f = 0; f < inner; ++f) {
    const double dhidden =
        rounded(dot(&t.dy[row * width], 1, w + 2 * width * inner + f, inner, width));
    const double gate = t.gate_up[row * 2 * inner + f], up = t.gate_up[row * 2 * inner + inner + f];
    const double s = sigmoid(gate);
    out.gate_up[f] = rounded(dhidden * up * s * (1 + gate * (1 - s)));
    out.gate_up[inner + f] = rounded(dhidden * gate * s);
  }
  for (size_t d = 0; d < width; ++d)
    out.x.push_back(dot(out.gate_up.data(), 1, w + d, width, 2 * inner));
  return out;
}

template <class T>
std::vector<float> slice(const std::vector<T>& values, size_t row, size_t width) {
  std::vector<float> out(width);
  for (size_t i = 0; i < width; ++i) {
    if constexpr (std::is_same_v<T, Bf16>)
      out[i] = to_float(values[row * width + i]);
    else
      out[i] = static_cast<float>(values[row * width + i]);
  }
  return out;
}

std::vector<Case> cases() {
  return {{"One_token", 64, 128, {1}},
          {"Uneven", 72, 40, {3, 0, 130, 1, 0, 257}},
          {"All_empty", 64, 64, {0, 0, 0}},
          {"First_and_last_empty", 128, 64, {0, 129, 0}},
          {"Room_behind", 64, 96, {5, 70}, 11},
          {"Many", 64, 64, std::vector<uint32_t>(70, 9)},
          {"Widths_of_no_multiple_of_8", 50, 36, {4, 0, 33}},
          {"No_rows_no_room", 64, 64, {}}};
}

class ExpertsCudaTest : public CudaTest, public testing::WithParamInterface<Case> {
 protected:
  // Calls check(expert, row) for every row, or for about `sample` of them.
  static void for_rows(const Tensors& t, size_t sample,
                       const std::function<void(size_t, size_t)>& check) {
    const size_t step = std::max<size_t>(1, t.first_row.back() / sample);
    for (size_t e = 0; e + 1 < t.first_row.size(); ++e)
      for (size_t row = t.first_row[e]; row < t.first_row[e + 1]; ++row)
        if (row % step == 0 || row == t.first_row[e] || row + 1 == t.first_row[e + 1]) {
          if (step > 1 && row % step != 0 && e % 8 != 0) continue;  // the edges of some experts
          check(e, row);
        }
  }
  void check_forward(const Case& c, size_t sample);
  void check_input_gradient(const Case& c, size_t sample);
  void check_weight_gradient(const Case& c, size_t sample);
};

void ExpertsCudaTest::check_forward(const Case& c, size_t sample) {
  std::mt19937 random(21);
  Tensors t = tensors_of(c, random);
  const auto weights = to_device_bf16(t.weights), x = to_device_bf16(t.x);
  const auto first = to_device(t.first_row);
  const ExpertRowsCuda rows{c.counts.size(), t.rows, first.data()};
  auto gate_up = poisoned<Bf16>(t.rows * 2 * c.expert_width);
  auto hidden = poisoned<Bf16>(t.rows * c.expert_width), y = poisoned<Bf16>(t.rows * c.width);
  const auto run = [&] {
    experts(cuda(), t.shape, rows, {weights.data(), t.stride}, x.data(), gate_up.data(),
            hidden.data(), y.data());
    return to_host(y);
  };
  const auto got = run();
  const auto got_gate_up = to_host(gate_up), got_hidden = to_host(hidden);
  for_rows(t, sample, [&](size_t e, size_t row) {
    const RowForward want = forward_row(t, e, row);
    ASSERT_LE(relative_error(slice(got_gate_up, row, 2 * c.expert_width), want.gate_up), kBf16)
        << "gate and up, expert " << e << " row " << row;
    ASSERT_LE(relative_error(slice(got_hidden, row, c.expert_width), want.hidden), kBf16)
        << "hidden, expert " << e << " row " << row;
    ASSERT_LE(relative_error(slice(got, row, c.width), want.y), kBf16)
        << "y, expert " << e << " row " << row;
  });
  for (size_t i = size_t{t.first_row.back()} * c.width; i < got.size(); ++i)
    ASSERT_EQ(got[i].bits, 0xffff) << "rows beyond the last expert's are not written";
  for (size_t i = size_t{t.first_row.back()} * c.expert_width; i < got_hidden.size(); ++i)
    ASSERT_EQ(got_hidden[i].bits, 0xffff) << "nor their hidden values";
  EXPECT_TRUE(run() == got) << "the same inputs give the same bits";
}

void ExpertsCudaTest::check_input_gradient(const Case& c, size_t sample) {
  std::mt19937 random(22);
  Tensors t = tensors_of(c, random);
  const auto weights = to_device_bf16(t.weights), dy = to_device_bf16(t.dy);
  const auto before = to_device_bf16(t.gate_up);
  const auto first = to_device(t.first_row);
  const ExpertRowsCuda rows{c.counts.size(), t.rows, first.data()};
  DeviceBuffer<Bf16> gate_up(before.size());
  auto scratch = poisoned<Bf16>(t.rows * c.expert_width), dx = poisoned<Bf16>(t.rows * c.width);
  const auto run = [&] {
    copy(cuda(), before.data(), before.size(), gate_up.data());
    experts_input_gradient(cuda(), t.shape, rows, {weights.data(), t.stride}, dy.data(),
                           gate_up.data(), scratch.data(), dx.data());
    return to_host(dx);
  };
  const auto got = run();
  const auto got_gate_up = to_host(gate_up);
  for_rows(t, sample, [&](size_t e, size_t row) {
    const RowBackward want = backward_row(t, e, row);
    ASSERT_LE(relative_error(slice(got_gate_up, row, 2 * c.expert_width), want.gate_up), kBf16)
        << "gate and up, expert " << e << " row " << row;
    ASSERT_LE(relative_error(slice(got, row, c.width), want.x), kBf16)
        << "dx, expert " << e << " row " << row;
  });
  for (size_t i = size_t{t.first_row.back()} * c.width; i < got.size(); ++i)
    ASSERT_EQ(got[i].bits, 0xffff) << "rows beyond the last expert's are not written";
  EXPECT_TRUE(run() == got) << "the same inputs give the same bits";
}

void ExpertsCudaTest::check_weight_gradient(const Case& c, size_t sample) {
  std::mt19937 random(23);
  Tensors t = tensors_of(c, random);
  const size_t width = c.width, inner = c.expert_width, size = t.stride * c.counts.size();
  const auto x = to_device_bf16(t.x), dy = to_device_bf16(t.dy);
  const auto gate_up = to_device_bf16(t.gate_up), hidden = to_device_bf16(t.hidden);
  const auto first = to_device(t.first_row);
  const ExpertRowsCuda rows{c.counts.size(), t.rows, first.data()};
  const auto run = [&](DeviceBuffer<float>& gradients, Into into) {
    experts_weight_gradient(cuda(), t.shape, rows, x.data(), gate_up.data(), dy.data(),
                            hidden.data(), into, {gradients.data(), t.stride});
    return to_host(gradients);
  };
  auto gradients = poisoned<float>(size);
  const auto got = run(gradients, Into::kOverwrite);
  EXPECT_EQ(std::memcmp(run(gradients, Into::kOverwrite).data(), got.data(), size * sizeof(float)),
            0)
      << "the same inputs give the same bits";
  const auto before = many_values(random, size);
  auto sum = to_device(before);
  const auto added = run(sum, Into::kAdd);

  // A sample of output rows of each expert: o < 2F is gate and up, the rest down.
  for (size_t e = 0; e < c.counts.size(); ++e) {
    const size_t begin = t.first_row[e], count = c.counts[e];
    const size_t outputs = 2 * inner + width;
    const size_t step = std::clamp<size_t>(outputs * c.counts.size() / sample, 1, outputs);
    for (size_t o = e * 977 % step; o < outputs; o += step) {
      const bool is_down = o >= 2 * inner;
      const size_t columns = is_down ? inner : width;
      const size_t at =
          e * t.stride + (is_down ? 2 * inner * width + (o - 2 * inner) * inner : o * width);
      std::vector<double> want, want_added;
      std::vector<float> is, is_added;
      for (size_t i = 0; i < columns; ++i) {
        const float* left = is_down ? t.dy.data() + begin * width + (o - 2 * inner)
                                    : t.gate_up.data() + begin * 2 * inner + o;
        const float* right =
            is_down ? t.hidden.data() + begin * inner + i : t.x.data() + begin * width + i;
        const double value = dot(left, is_down ? width : 2 * inner, right, columns, count);
        want.push_back(value);
        want_added.push_back(value + static_cast<double>(before[at + i]));
        is.push_back(got[at + i]);
        is_added.push_back(added[at + i]);
      }
      ASSERT_LE(relative_error(is, want), fp32_tolerance(count))
          << "expert " << e << " output " << o;
      ASSERT_LE(relative_error(is_added, want_added), fp32_tolerance(count))
          << "expert " << e << " output " << o;
    }
    for (size_t i = 3 * width * inner; i < t.stride; ++i)
      ASSERT_EQ(added[e * t.stride + i], before[e * t.stride + i]) << "between experts";
  }
}

TEST_P(ExpertsCudaTest, ForwardIsSwiGluOfEachRowsExpert) { check_forward(GetParam(), 1000); }
TEST_P(ExpertsCudaTest, InputGradientIsThatOfEachRowsExpert) {
  check_input_gradient(GetParam(), 1000);
}
TEST_P(ExpertsCudaTest, WeightGradientIsTheSumOverTheExpertsRows) {
  check_weight_gradient(GetParam(), 1'000'000);
}

INSTANTIATE_TEST_SUITE_P(Cases, ExpertsCudaTest, testing::ValuesIn(cases()),
                         [](const auto& info) { return std::string(info.param.name); });

// Sums of a row's choices differ between experts: R rows over E experts, the first gets many.
std::vector<uint32_t> skewed(size_t experts, uint32_t rows) {
  std::vector<uint32_t> counts(experts, rows / static_cast<uint32_t>(2 * experts));
  uint32_t left = rows;
  for (size_t e = 1; e < experts; ++e) left -= counts[e] += static_cast<uint32_t>(e % 7);
  counts[0] = left;
  return counts;
}

class LargeExpertsCudaTest : public ExpertsCudaTest {};
TEST_P(LargeExpertsCudaTest, AreRightInASample) {
  check_forward(GetParam(), 40);
  check_input_gradient(GetParam(), 40);
  check_weight_gradient(GetParam(), 40);
}
INSTANTIATE_TEST_SUITE_P(Sizes, LargeExpertsCudaTest,
                         testing::Values(Case{"E16", 768, 2048, skewed(16, 65536)},
                                         Case{"E64", 768, 1024, skewed(64, 131072)}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace holdfast::train::kernels
