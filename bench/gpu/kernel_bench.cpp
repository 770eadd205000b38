// How fast the memory-bound operations run on an accelerator, at the sizes of moe-s16: milliseconds
// and the rate at which the fewest bytes that each must move went by. Host clock around many
// repetitions that are waited for together; tensors rotate among so many that they are not found in the
// cache (weights, and the table of a vocabulary of 256, are).
//
//   kernel_bench [tokens]
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "train/kernels/ops_cuda.h"

namespace holdfast::train::kernels {
namespace {

constexpr size_t kWidth = 768, kExperts = 16, kTopK = 2, kExpertWidth = 2048;
constexpr size_t kVocabulary = 50304, kByteVocabulary = 256, kContext = 2048;
constexpr size_t kSets = 3;  // at least
constexpr size_t kCacheBytes = size_t{128} << 20;  // twice what any of these accelerators has, and more
constexpr size_t kParameters = size_t{64} << 20;

// How many tensors of so many bytes the cache cannot hold.
size_t sets_of(size_t bytes) { return std::max(kSets, kCacheBytes / std::max<size_t>(bytes, 1) + 1); }

// One of them for each turn.
template <class T>
class Sets {
 public:
  explicit Sets(std::vector<DeviceBuffer<T>> all) : all_(std::move(all)) {}
  DeviceBuffer<T>& operator[](size_t turn) { return all_[turn % all_.size()]; }
  const DeviceBuffer<T>& operator[](size_t turn) const { return all_[turn % all_.size()]; }

 private:
  std::vector<DeviceBuffer<T>> all_;
};

class Bench {
 public:
  explicit Bench(Cuda& cuda) : cuda_(cuda), floats_(kBlock), halves_(kBlock) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < kBlock; ++i) {
      floats_.data()[i] = normal(random);
      halves_.data()[i] = to_bf16(floats_.data()[i]);
    }
  }

  DeviceBuffer<float> floats(size_t elements) { return filled(elements, floats_); }
  DeviceBuffer<Bf16> halves(size_t elements) { return filled(elements, halves_); }
  Sets<Bf16> half_sets(size_t elements) {
    std::vector<DeviceBuffer<Bf16>> all;
    const size_t count = sets_of(elements * sizeof(Bf16));
    while (all.size() < count) all.push_back(halves(elements));
    return Sets(std::move(all));
  }
  template <class T>
  DeviceBuffer<T> upload_all(const std::vector<T>& values) {
    PinnedBuffer<T> pinned(values.size());
    std::memcpy(pinned.data(), values.data(), values.size() * sizeof(T));
    DeviceBuffer<T> device(values.size());
    upload_bytes(cuda_, pinned.data(), values.size() * sizeof(T), device.data());
    finish();
    return device;
  }

  // `run` gets the number of its turn; `bytes` are the fewest that one run must move.
  void time(const std::string& name, size_t bytes, const std::function<void(size_t)>& run) {
    for (size_t i = 0; i < kSets; ++i) run(turn_++);
    finish();
    const double once = seconds(run, kSets);
    const size_t repetitions =
        std::clamp(static_cast<size_t>(0.05 / std::max(once, 1e-6)), kSets, size_t{2000});
    std::array<double, 5> samples;
    for (double& sample : samples) sample = seconds(run, repetitions);
    std::sort(samples.begin(), samples.end());
    const double median = samples[samples.size() / 2];
    fmt::print("{:<34} {:>9.4f} {:>9.0f} {:>8.1f} %\n", name, median * 1e3,
               static_cast<double>(bytes) / median / 1e9,
               100 * (samples.back() - samples.front()) / median);
    std::fflush(stdout);
  }

  void finish() {
    const Status status = cuda_.finish();
    if (status) return;
    fmt::print(stderr, "{}\n", status.error().to_string());
    std::exit(1);
  }

 private:
  static constexpr size_t kBlock = size_t{1} << 22;

  template <class T>
  DeviceBuffer<T> filled(size_t elements, const PinnedBuffer<T>& from) {
    DeviceBuffer<T> device(elements);
    for (size_t at = 0; at < elements; at += kBlock)
      upload_bytes(cuda_, from.data(), std::min(kBlock, elements - at) * sizeof(T),
                   device.data() + at);
    finish();
    return device;
  }
  double seconds(const std::function<void(size_t)>& run, size_t repetitions) {
    const auto begin = std::chrono::steady_clock::now();
    for (size_t i = 0; i < repetitions; ++i) run(turn_++);
    finish();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    return took.count() / static_cast<double>(repetitions);
  }

  Cuda& cuda_;
  size_t turn_ = 0;
  PinnedBuffer<float> floats_;
  PinnedBuffer<Bf16> halves_;
};

void time_rows(Cuda& cuda, Bench& bench, size_t tokens) {
  const RowShape shape = {tokens, kWidth};
  const size_t elements = tokens * kWidth;
  const size_t tensor = elements * sizeof(Bf16);
  const auto x = bench.half_sets(elements);
  const auto dy = bench.half_sets(elements);
  auto y = bench.half_sets(elements);
  const auto weight = bench.halves(kWidth);
  auto inverse = bench.floats(tokens);
  auto dweight = bench.floats(kWidth);
  bench.time("copy, the ceiling", 2 * tensor,
             [&](size_t s) { copy(cuda, x[s].data(), elements, y[s].data()); });
  bench.time("rms_norm", 2 * tensor, [&](size_t s) {
    rms_norm(cuda, shape, x[s].data(), weight.data(), 1e-5, inverse.data(), y[s].data());
  });
  bench.time("rms_norm_input_gradient", 4 * tensor, [&](size_t s) {
    rms_norm_input_gradient(cuda, shape, dy[s].data(), x[s].data(), weight.data(), inverse.data(),
                            y[s].data());
  });
  bench.time("rms_norm_weight_gradient", 2 * tensor, [&](size_t s) {
    rms_norm_weight_gradient(cuda, shape, dy[s].data(), x[s].data(), inverse.data(),
                             Into::kOverwrite, dweight.data());
  });
}

void time_rotary(Cuda& cuda, Bench& bench, size_t tokens) {
  const AttentionShape shape = {std::max<size_t>(tokens / kContext, 1), kContext, 12, 4, 64};
  const CudaRotaryTable table(cuda, kContext, shape.head_width, 10000.0);
  auto qkv = bench.half_sets(shape.tokens() * shape.packed_width());
  const size_t turned = shape.tokens() * (shape.heads + shape.kv_heads) * shape.head_width;
  bench.time("rotary", 2 * turned * sizeof(Bf16),
             [&](size_t s) { rotary(cuda, shape, table, qkv[s].data()); });
}

// What the router knows of one micro-batch: small, so that many are needed.
struct Routed {
  Routed(Bench& bench, const RouterShape& shape)
      : probabilities(bench.floats(shape.tokens * shape.experts)),
        logsumexp(bench.floats(shape.tokens)),
        gates(bench.floats(shape.choices())),
        dgates(bench.floats(shape.choices())),
        chosen(shape.choices()),
        rank(shape.choices()),
        counts(shape.experts),
        dlogits(shape.tokens * shape.experts) {}
  DeviceBuffer<float> probabilities, logsumexp, gates, dgates;
  DeviceBuffer<uint32_t> chosen, rank, counts;
  DeviceBuffer<Bf16> dlogits;
};

void time_router(Cuda& cuda, Bench& bench, size_t tokens) {
  const RouterShape shape = {tokens, kExperts, kTopK};
  const size_t logits = tokens * kExperts, choices = shape.choices();
  const size_t least = choices * 2 * sizeof(uint32_t);  // of the operations: count_choices
  std::vector<Routed> all;
  for (size_t i = 0; i < sets_of(least); ++i) all.emplace_back(bench, shape);
  DeviceBuffer<double> losses(2);
  zero(cuda, losses.data(), 2);
  const auto choose = [&](size_t turn) {
    Routed& r = all[turn % all.size()];
    route(cuda, shape, r.probabilities.data(), r.logsumexp.data(), r.chosen.data(), r.gates.data());
  };
  const auto count = [&](size_t turn) {
    Routed& r = all[turn % all.size()];
    count_choices(cuda, shape, r.chosen.data(), r.counts.data(), r.rank.data());
  };
  for (size_t i = 0; i < all.size(); ++i) {  // choices are there before they are counted
    choose(i);
    count(i);
  }
  bench.time("route", logits * 8 + choices * 8 + tokens * 4, choose);
  bench.time("count_choices", choices * 8, count);
  bench.time("router_losses", logits * 4 + tokens * 4, [&](size_t turn) {
    Routed& r = all[turn % all.size()];
    router_losses(cuda, shape, r.probabilities.data(), r.logsumexp.data(), r.counts.data(),
                  {0.01, 0.001}, losses.data());
  });
  bench.time("router_input_gradient", logits * 6 + choices * 12 + tokens * 4, [&](size_t turn) {
    Routed& r = all[turn % all.size()];
    router_input_gradient(cuda, shape, r.probabilities.data(), r.logsumexp.data(), r.chosen.data(),
                          r.gates.data(), r.dgates.data(), r.counts.data(), {0.01, 0.001},
                          r.dlogits.data());
  });
}

void time_permute(Cuda& cuda, Bench& bench, size_t tokens) {
  const CombineShape shape = {tokens, kTopK, kWidth};
  const size_t rows = tokens * kTopK;
  const RowShape sent = {rows, kWidth};
  const size_t tensor = tokens * kWidth * sizeof(Bf16);
  std::vector<uint32_t> order(rows), token(rows);
  std::iota(order.begin(), order.end(), 0U);
  std::shuffle(order.begin(), order.end(), std::mt19937(2));
  for (size_t i = 0; i < rows; ++i) token[order[i]] = static_cast<uint32_t>(i / kTopK);
  const auto row = bench.upload_all(order);
  const auto token_of_row = bench.upload_all(token);
  const auto gates = bench.floats(rows);
  auto dgates = bench.floats(rows);
  const auto x = bench.half_sets(tokens * kWidth);
  auto y = bench.half_sets(tokens * kWidth);
  const auto in = bench.half_sets(rows * kWidth);
  auto out = bench.half_sets(rows * kWidth);
  bench.time("gather_rows", tensor + kTopK * tensor, [&](size_t s) {
    gather_rows(cuda, sent, token_of_row.data(), x[s].data(), out[s].data());
  });
  bench.time("scatter_rows", 2 * kTopK * tensor,
             [&](size_t s) { scatter_rows(cuda, sent, row.data(), in[s].data(), out[s].data()); });
  bench.time("combine", (kTopK + 2) * tensor, [&](size_t s) {
    combine(cuda, shape, row.data(), gates.data(), in[s].data(), x[s].data(), y[s].data());
  });
  bench.time("combine_input_gradient", (2 * kTopK + 1) * tensor, [&](size_t s) {
    combine_input_gradient(cuda, shape, row.data(), gates.data(), in[s].data(), x[s].data(),
                           out[s].data(), dgates.data());
  });
  bench.time("dispatch_input_gradient", (kTopK + 1) * tensor, [&](size_t s) {
    dispatch_input_gradient(cuda, shape, row.data(), in[s].data(), y[s].data());
  });
}

void time_swiglu(Cuda& cuda, Bench& bench, size_t tokens) {
  const size_t rows = tokens * kTopK;
  auto gate_up = bench.half_sets(rows * 2 * kExpertWidth);
  auto hidden = bench.half_sets(rows * kExpertWidth);
  const size_t tensor = rows * kExpertWidth * sizeof(Bf16);
  bench.time("swiglu", 3 * tensor, [&](size_t s) {
    swiglu(cuda, rows, kExpertWidth, gate_up[s].data(), hidden[s].data());
  });
  bench.time("swiglu_input_gradient", 5 * tensor, [&](size_t s) {
    swiglu_input_gradient(cuda, rows, kExpertWidth, hidden[s].data(), gate_up[s].data());
  });
}

void time_embedding(Cuda& cuda, Bench& bench, size_t tokens) {
  const RowShape shape = {tokens, kWidth};
  const size_t tensor = tokens * kWidth * sizeof(Bf16);
  auto x = bench.half_sets(tokens * kWidth);
  for (const size_t vocabulary : {kVocabulary, kByteVocabulary}) {
    // Some tokens far more frequent than others, as in text.
    std::mt19937 random(3);
    std::uniform_real_distribution<double> unit(0, 1);
    std::vector<int32_t> values(tokens);
    for (int32_t& value : values)
      value = static_cast<int32_t>(std::pow(unit(random), 4) * static_cast<double>(vocabulary));
    const auto token = bench.upload_all(values);
    const auto table = bench.halves(vocabulary * kWidth);
    auto dtable = bench.floats(vocabulary * kWidth);
    const std::string of = fmt::format(" of {}", vocabulary);
    bench.time("embedding" + of, 2 * tensor,
               [&](size_t s) { embedding(cuda, shape, token.data(), table.data(), x[s].data()); });
    bench.time("embedding_weight_gradient" + of, tensor + vocabulary * kWidth * sizeof(float),
               [&](size_t s) {
                 embedding_weight_gradient(cuda, shape, vocabulary, token.data(), x[s].data(),
                                           Into::kOverwrite, dtable.data());
               });
  }
}

void time_cross_entropy(Cuda& cuda, Bench& bench, size_t tokens) {
  for (const size_t vocabulary : {kVocabulary, kByteVocabulary}) {
    const RowShape shape = {tokens, vocabulary};
    auto logits = bench.half_sets(tokens * vocabulary);
    auto losses = bench.floats(tokens);
    DeviceBuffer<double> mean(1);
    std::mt19937 random(4);
    std::vector<int32_t> values(tokens);
    for (int32_t& value : values) value = static_cast<int32_t>(random() % vocabulary);
    const auto targets = bench.upload_all(values);
    const size_t tensor = tokens * vocabulary * sizeof(Bf16);
    const std::string of = fmt::format(" of {}", vocabulary);
    bench.time("cross_entropy, loss only" + of, tensor, [&](size_t s) {
      cross_entropy(cuda, shape, targets.data(), std::nullopt, logits[s].data(), losses.data(),
                    mean.data());
    });
    bench.time("cross_entropy" + of, 2 * tensor, [&](size_t s) {
      cross_entropy(cuda, shape, targets.data(), 1.0, logits[s].data(), losses.data(), mean.data());
    });
  }
}

void time_optimizer(Cuda& cuda, Bench& bench) {
  auto a = bench.floats(kParameters), b = bench.floats(kParameters), c = bench.floats(kParameters);
  const auto gradient = bench.floats(kParameters);
  zero(cuda, c.data(), kParameters);  // squares are not negative
  DeviceBuffer<Bf16> weights(kParameters);
  DeviceBuffer<double> sum(1);
  const AdamwConstants constants = {0.9F, 0.95F, 1e-8F, 1e-6F, 1.0F, 1.0F, 1.0F};
  bench.time("adamw", kParameters * 30, [&](size_t) {
    const AdamwRange<Bf16> range{kParameters, 0.1F,
                                 {a.data(), b.data(), c.data(), gradient.data(), a.data(),
                                  b.data(), c.data(), weights.data()}};
    adamw(cuda, constants, {&range, 1});
  });
  bench.time("convert", kParameters * 6,
             [&](size_t) { convert(cuda, a.data(), kParameters, weights.data()); });
  bench.time("sum_squares", kParameters * 4, [&](size_t) {
    const FloatRange range{gradient.data(), kParameters};
    sum_squares(cuda, {&range, 1}, sum.data());
  });
  bench.time("add", kParameters * 12,
             [&](size_t) { add(cuda, gradient.data(), kParameters, a.data()); });
}

int run(size_t tokens) {
  const auto cuda = Cuda::open(0);
  if (!cuda) {
    fmt::print(stderr, "{}\n", cuda.error().to_string());
    return 1;
  }
  Cuda& device = **cuda;
  device.use();
  fmt::print("{}: N {}, D {}, E {}, K {}, F {}, V {}\n", device.name(), tokens, kWidth, kExperts,
             kTopK, kExpertWidth, kVocabulary);
  fmt::print("{:<34} {:>9} {:>9} {:>10}\n", "operation", "ms", "GB/s", "spread");
  try {
    Bench bench(device);
    time_rows(device, bench, tokens);
    time_rotary(device, bench, tokens);
    time_router(device, bench, tokens);
    time_permute(device, bench, tokens);
    time_swiglu(device, bench, tokens);
    time_embedding(device, bench, tokens);
    time_cross_entropy(device, bench, tokens);
    time_optimizer(device, bench);
  } catch (const OutOfDeviceMemory& memory) {
    fmt::print(stderr, "{} bytes more are not there\n", memory.bytes);
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace holdfast::train::kernels

int main(int argc, char** argv) {
  const size_t tokens = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 32768;
  return holdfast::train::kernels::run(std::max<size_t>(tokens, 1));
}
