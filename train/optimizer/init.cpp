#include "train/optimizer/init.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <thread>
#include <vector>

#include "base/check.h"

namespace holdfast::train {
namespace {

// Fewer are not worth a thread.
constexpr size_t kElementsPerThread = size_t{1} << 18;

uint64_t mix(uint64_t x) {  // splitmix64's finaliser
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// In (0, 1]: a logarithm may follow.
double uniform(uint64_t bits) { return (static_cast<double>(bits >> 11) + 1) * 0x1p-53; }

double normal(uint64_t seed, uint64_t group, uint64_t element) {  // Box and Muller
  const uint64_t key = mix(mix(mix(seed) ^ group) ^ element);
  return std::sqrt(-2 * std::log(uniform(key))) *
         std::cos(2 * std::numbers::pi * uniform(mix(key)));
}

}  // namespace

namespace {

void fill(uint64_t seed, const GroupSpec& group, ElementRange range, std::span<float> out) {
  for (const TensorSpec& tensor : group.tensors) {
    const size_t begin = std::max(range.begin, tensor.offset);
    const size_t end = std::min(range.end, tensor.offset + tensor.elements());
    for (size_t i = begin; i < end; ++i)
      out[i - range.begin] =
          tensor.init_stddev == 0
              ? 1.0F
              : static_cast<float>(tensor.init_stddev * normal(seed, group.index.value, i));
  }
}

}  // namespace

void initial_values(uint64_t seed, const GroupSpec& group, ElementRange range,
                    std::span<float> out) {
  CHECK(out.size() == range.size());
  const size_t threads = std::clamp<size_t>(range.size() / kElementsPerThread, 1,
                                            std::max(1U, std::thread::hardware_concurrency()));
  std::vector<std::jthread> others;
  for (size_t t = 0; t < threads; ++t) {
    const ElementRange part{range.begin + range.size() * t / threads,
                            range.begin + range.size() * (t + 1) / threads};
    const std::span<float> to = out.subspan(part.begin - range.begin, part.size());
    if (t + 1 == threads) {
      fill(seed, group, part, to);
    } else {
      others.emplace_back([=, &group] { fill(seed, group, part, to); });
    }
  }
}

}  // namespace holdfast::train
