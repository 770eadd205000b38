// AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2) with linear warm-up and cosine decay.
#pragma once

#include <cstdint>
#include <span>

#include "base/ids.h"
#include "conf/job_config.h"
#include "train/optimizer/shard_store.h"

namespace holdfast::train {

// Of the update that step `step` makes: warm-up rises linearly over warmup_steps, then a cosine falls
// to min_learning_rate at the job's last step.
double learning_rate(const conf::OptimizerConfig& optimizer, uint64_t steps, Step step);

struct AdamwStep {
  double learning_rate = 0;
  double gradient_scale = 1;  // of the clip
  uint64_t update = 1;        // counted from 1, for bias correction
};

// next = update(now, gradient), which has range.size() elements: all of `group` from range.begin on;
// weight decay where TensorSpec::decays says so. Nothing is changed once the device's abort word is set.
template <class B>
void adamw(typename B::Device& device, const conf::OptimizerConfig& optimizer,
           const AdamwStep& step, const GroupSpec& group, ElementRange range, const ShardView& now,
           const float* gradient, const ShardView& next);

}  // namespace holdfast::train
