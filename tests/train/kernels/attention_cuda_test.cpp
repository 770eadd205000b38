// Attention against double loops: groups of query heads, odd contexts, one token, several
// sequences; gradients of q, k and v; the same bits twice.
#include <string>

#include "tests/train/kernels/cuda_kit.h"

namespace holdfast::train::kernels {
namespace {

constexpr double kBf16 = 1e-2;  // probabilities are bf16 inside
constexpr double kFp32 = 1e-4;

// Offsets in a row of q, k, v.
size_t q_at(const AttentionShape& s, size_t h) { return h * s.head_width; }
size_t k_at(const AttentionShape& s, size_t h) {
  return (s.heads + h / (s.heads / s.kv_heads)) * s.head_width;
}
size_t v_at(const AttentionShape& s, size_t h) { return k_at(s, h) + s.kv_heads * s.head_width; }

struct Reference {
  std::vector<double> out, logsumexp, dqkv;
};

// One head of one sequence: F, and I with `dout`; adds to the reference, which several heads share.
void attend(const AttentionShape& s, size_t b, size_t h, const std::vector<float>& qkv,
            const std::vector<float>& dout, Reference& r) {
  const size_t row = s.packed_width(), width = s.head_width;
  const double scale = 1 / std::sqrt(static_cast<double>(width));
  const auto dot = [&](const float* a, const float* c) {
    double sum = 0;
    for (size_t i = 0; i < width; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(c[i]);
    return sum;
  };
  std::vector<double> p(s.context);
  for (size_t t = 0; t < s.context; ++t) {
    const size_t n = b * s.context + t;
    const float* q = &qkv[n * row + q_at(s, h)];
    const auto key = [&](size_t u) { return (b * s.context + u) * row + k_at(s, h); };
    const auto value = [&](size_t u) { return (b * s.context + u) * row + v_at(s, h); };
    double largest = -1e300, sum = 0;
    for (size_t u = 0; u <= t; ++u)
      largest = std::max(largest, p[u] = scale * dot(q, &qkv[key(u)]));
    for (size_t u = 0; u <= t; ++u) sum += p[u] = std::exp(p[u] - largest);
    r.logsumexp[(b * s.heads + h) * s.context + t] = largest + std::log(sum);
    double* out = &r.out[n * s.width() + h * width];
    const float* d = &dout[n * s.width() + h * width];
    double expected = 0;  // sum_u p_u (d . v_u)
    for (size_t u = 0; u <= t; ++u) {
      p[u] /= sum;
      for (size_t i = 0; i < width; ++i) out[i] += p[u] * static_cast<double>(qkv[value(u) + i]);
      expected += p[u] * dot(d, &qkv[value(u)]);
    }
    for (size_t u = 0; u <= t; ++u) {
      const double ds = p[u] * (dot(d, &qkv[value(u)]) - expected) * scale;
      for (size_t i = 0; i < width; ++i) {
        r.dqkv[n * row + q_at(s, h) + i] += ds * static_cast<double>(qkv[key(u) + i]);
        r.dqkv[key(u) + i] += ds * static_cast<double>(q[i]);
        r.dqkv[value(u) + i] += p[u] * static_cast<double>(d[i]);
      }
    }
  }
}

Reference reference(const AttentionShape& s, const std::vector<float>& qkv,
                    const std::vector<float>& dout) {
  Reference r{std::vector<double>(s.tokens() * s.width()),
              std::vector<double>(s.sequences * s.heads * s.context),
              std::vector<double>(s.tokens() * s.packed_width())};
  for (size_t b = 0; b < s.sequences; ++b)
    for (size_t h = 0; h < s.heads; ++h) attend(s, b, h, qkv, dout, r);
  return r;
}

// Columns [from, to) of rows.
template <class T>
std::vector<double> columns(const std::vector<T>& values, size_t width, size_t from, size_t to) {
  std::vector<double> out;
  for (size_t n = 0; n < values.size() / width; ++n)
    for (size_t i = from; i < to; ++i) out.push_back(static_cast<double>(values[n * width + i]));
  return out;
}

class AttentionCudaTest : public CudaTest, public testing::WithParamInterface<AttentionShape> {};

TEST_P(AttentionCudaTest, ForwardAndGradientsAreThoseOfCausalAttention) {
  const AttentionShape s = GetParam();
  std::mt19937 random(31);
  auto qkv = random_values(random, s.tokens() * s.packed_width());
  auto dout = random_values(random, s.tokens() * s.width());
  const auto qkv_device = to_device_bf16(qkv), dout_device = to_device_bf16(dout);
  auto out = poisoned<Bf16>(s.tokens() * s.width());
  auto kept = poisoned<float>(attention_kept(cuda(), s));
  auto dqkv = poisoned<Bf16>(s.tokens() * s.packed_width());
  const auto run = [&] {
    attention(cuda(), s, qkv_device.data(), kept.data(), out.data());
    attention_input_gradient(cuda(), s, dout_device.data(), qkv_device.data(), out.data(),
                             kept.data(), dqkv.data());
    EXPECT_TRUE(cuda().finish());
  };
  run();
  const Reference want = reference(s, qkv, dout);
  EXPECT_LE(relative_error(to_host_float(out), want.out), kBf16);
  EXPECT_LE(relative_error(to_host(kept), want.logsumexp), kFp32);
  const auto got = to_host_float(dqkv);
  const size_t k_begin = s.width(), v_begin = k_begin + s.kv_heads * s.head_width;
  const auto part_error = [&](size_t from, size_t to) {
    return relative_error(columns(got, s.packed_width(), from, to),
                          columns(want.dqkv, s.packed_width(), from, to));
  };
  if (s.context > 1) {  // one token attends to itself alone: no gradient but the value's
    EXPECT_LE(part_error(0, k_begin), kBf16) << "queries";
    EXPECT_LE(part_error(k_begin, v_begin), kBf16) << "keys";
  } else {
    for (size_t i = 0; i < v_begin; ++i) EXPECT_NEAR(got[i], 0, 0.1) << "queries and keys";
  }
  EXPECT_LE(part_error(v_begin, s.packed_width()), kBf16) << "values";

  const auto first_out = to_host(out), first_gradient = to_host(dqkv);
  for (int i = 0; i < 5; ++i) {
    run();
    EXPECT_TRUE(to_host(out) == first_out) << "the same inputs give the same bits";
    EXPECT_TRUE(to_host(dqkv) == first_gradient) << "the same inputs give the same bits";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AttentionCudaTest,
    testing::Values(AttentionShape{1, 1, 2, 1, 64}, AttentionShape{2, 5, 3, 3, 32},
                    AttentionShape{3, 64, 4, 2, 64}, AttentionShape{2, 129, 6, 2, 64},
                    AttentionShape{1, 257, 2, 2, 128}, AttentionShape{2, 1024, 12, 4, 64}),
    [](const auto& info) {
      const AttentionShape& s = info.param;
      return "B" + std::to_string(s.sequences) + "T" + std::to_string(s.context) + "H" +
             std::to_string(s.heads) + "G" + std::to_string(s.kv_heads) + "A" +
             std::to_string(s.head_width);
    });

// More sequences than the gradient takes at once.
class LargeAttentionCudaTest : public CudaTest {};
TEST_F(LargeAttentionCudaTest, EachSequenceHasTheGradientItHasAlone) {
  const AttentionShape s{20, 1024, 32, 8, 64}, one{1, 1024, 32, 8, 64};
  std::mt19937 random(32);
  auto qkv = random_values(random, s.tokens() * s.packed_width());
  auto dout = random_values(random, s.tokens() * s.width());
  const auto qkv_device = to_device_bf16(qkv), dout_device = to_device_bf16(dout);
  auto out = poisoned<Bf16>(s.tokens() * s.width());
  auto kept = poisoned<float>(attention_kept(cuda(), s));
  auto dqkv = poisoned<Bf16>(s.tokens() * s.packed_width());
  attention(cuda(), s, qkv_device.data(), kept.data(), out.data());
  attention_input_gradient(cuda(), s, dout_device.data(), qkv_device.data(), out.data(),
                           kept.data(), dqkv.data());
  const auto got = to_host_float(dqkv);
  const size_t size = one.tokens() * s.packed_width();
  auto alone = poisoned<Bf16>(size);
  for (size_t b = 0; b < s.sequences; ++b) {
    attention_input_gradient(cuda(), one, dout_device.data() + b * one.tokens() * s.width(),
                             qkv_device.data() + b * size,
                             out.data() + b * one.tokens() * s.width(),
                             kept.data() + b * attention_kept(cuda(), one), alone.data());
    const std::vector<float> part(got.begin() + static_cast<ptrdiff_t>(b * size),
                                  got.begin() + static_cast<ptrdiff_t>((b + 1) * size));
    EXPECT_LE(relative_error(part, to_host_float(alone)), 1e-3) << "sequence " << b;
  }
}

class EmptyAttentionCudaTest : public CudaTest {};
TEST_F(EmptyAttentionCudaTest, NoTokensIsAllowed) {
  const AttentionShape s{0, 128, 4, 2, 64};
  EXPECT_EQ(attention_kept(cuda(), s), 0U);
  attention(cuda(), s, nullptr, nullptr, nullptr);
  attention_input_gradient(cuda(), s, nullptr, nullptr, nullptr, nullptr, nullptr);
  EXPECT_TRUE(cuda().finish());
}

}  // namespace
}  // namespace holdfast::train::kernels
