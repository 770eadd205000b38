#include "train/optimizer/adamw.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"
#include "train/kernels/backends.h"

namespace holdfast::train {

double learning_rate(const conf::OptimizerConfig& optimizer, uint64_t steps, Step step) {
  const uint64_t warmup = optimizer.warmup_steps;
  if (step.value < warmup)
    return optimizer.learning_rate * static_cast<double>(step.value + 1) /
           static_cast<double>(warmup);
  if (steps <= warmup + 1) return optimizer.learning_rate;
  const double done = static_cast<double>(step.value - warmup) /
                      static_cast<double>(steps - 1 - warmup);
  const double cosine = 0.5 * (1 + std::cos(std::numbers::pi * std::min(done, 1.0)));
  return optimizer.min_learning_rate +
         (optimizer.learning_rate - optimizer.min_learning_rate) * cosine;
}

template <class B>
void adamw(typename B::Device& device, const conf::OptimizerConfig& optimizer,
           const AdamwStep& step, const GroupSpec& group, ElementRange range, const ShardView& now,
           const float* gradient, const ShardView& next) {
  CHECK(now.master.size() == range.size() && next.master.size() == range.size());
  const auto updates = static_cast<double>(step.update);
  kernels::AdamwConstants constants{
      static_cast<float>(optimizer.beta1),
      static_cast<float>(optimizer.beta2),
      static_cast<float>(optimizer.epsilon),
      static_cast<float>(step.learning_rate),
      0,
      static_cast<float>(step.gradient_scale),
      static_cast<float>(1 / (1 - std::pow(optimizer.beta1, updates))),
      static_cast<float>(1 / (1 - std::pow(optimizer.beta2, updates)))};
  for (const TensorSpec& tensor : group.tensors) {
    const size_t begin = std::max(range.begin, tensor.offset);
    const size_t end = std::min(range.end, tensor.offset + tensor.elements());
    if (begin >= end) continue;
    const size_t at = begin - range.begin;
    constants.decay = tensor.decays ? static_cast<float>(optimizer.weight_decay) : 0.0F;
    kernels::adamw(device, end - begin, constants,
                   kernels::AdamwTensors<typename B::Value>{
                       now.master.data() + at, now.m.data() + at, now.v.data() + at, gradient + at,
                       next.master.data() + at, next.m.data() + at, next.v.data() + at});
  }
}

#define INSTANTIATE(B)                                                                             \
  template void adamw<B>(B::Device&, const conf::OptimizerConfig&, const AdamwStep&,               \
                         const GroupSpec&, ElementRange, const ShardView&, const float*,           \
                         const ShardView&);
INSTANTIATE(CpuBackend<float>)
HOLDFAST_FOR_EACH_ACCELERATOR(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
