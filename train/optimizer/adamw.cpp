#include "train/optimizer/adamw.h"

#include <algorithm>
#include <cmath>
#include <numbers>


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

kernels::AdamwConstants adamw_constants(const conf::OptimizerConfig& optimizer,
                                        const AdamwStep& step) {
  const auto updates = static_cast<double>(step.update);
  return {static_cast<float>(optimizer.beta1),
          static_cast<float>(optimizer.beta2),
          static_cast<float>(optimizer.epsilon),
          static_cast<float>(step.learning_rate),
          static_cast<float>(step.gradient_scale),
          static_cast<float>(1 / (1 - std::pow(optimizer.beta1, updates))),
          static_cast<float>(1 / (1 - std::pow(optimizer.beta2, updates)))};
}

}  // namespace holdfast::train
