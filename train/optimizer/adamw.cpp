#include "train/optimizer/adamw.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"

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

void adamw(const conf::OptimizerConfig& optimizer, const AdamwStep& step, const GroupSpec& group,
           ElementRange range, const ShardView& now, std::span<const float> gradient,
           const ShardView& next) {
  CHECK(gradient.size() == range.size() && now.master.size() == range.size());
  const auto beta1 = static_cast<float>(optimizer.beta1);
  const auto beta2 = static_cast<float>(optimizer.beta2);
  const auto scale = static_cast<float>(step.gradient_scale);
  const auto epsilon = static_cast<float>(optimizer.epsilon);
  const auto rate = static_cast<float>(step.learning_rate);
  const auto updates = static_cast<double>(step.update);
  const auto m_correction = static_cast<float>(1 / (1 - std::pow(optimizer.beta1, updates)));
  const auto v_correction = static_cast<float>(1 / (1 - std::pow(optimizer.beta2, updates)));
  for (const TensorSpec& tensor : group.tensors) {
    const size_t begin = std::max(range.begin, tensor.offset);
    const size_t end = std::min(range.end, tensor.offset + tensor.elements());
    const float decay = tensor.decays ? static_cast<float>(optimizer.weight_decay) : 0.0F;
    for (size_t at = begin; at < end; ++at) {
      const size_t i = at - range.begin;
      const float g = gradient[i] * scale;
      const float m = beta1 * now.m[i] + (1 - beta1) * g;
      const float v = beta2 * now.v[i] + (1 - beta2) * g * g;
      const float direction = m * m_correction / (std::sqrt(v * v_correction) + epsilon);
      next.master[i] = now.master[i] - rate * (direction + decay * now.master[i]);
      next.m[i] = m;
      next.v[i] = v;
    }
  }
}

}  // namespace holdfast::train
