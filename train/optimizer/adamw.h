// AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2) with linear warm-up and cosine decay.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/ids.h"
#include "conf/job_config.h"
#include "train/kernels/shapes.h"
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

kernels::AdamwConstants adamw_constants(const conf::OptimizerConfig& optimizer,
                                        const AdamwStep& step);

// What kernels::adamw has to do for one shard, range.size() elements of `group` from range.begin on:
// appended to `ranges`, with weight decay where TensorSpec::decays says so. `weights`: the compute
// weights of these elements, or null where materialize makes them.
template <class V>
void append_ranges(const conf::OptimizerConfig& optimizer, const GroupSpec& group,
                   ElementRange range, const ShardView& now, const float* gradient,
                   const ShardView& next, V* weights,
                   std::vector<kernels::AdamwRange<V>>& ranges) {
  for (const TensorSpec& tensor : group.tensors) {
    const size_t begin = std::max(range.begin, tensor.offset);
    const size_t end = std::min(range.end, tensor.offset + tensor.elements());
    if (begin >= end) continue;
    const size_t at = begin - range.begin;
    ranges.push_back({end - begin,
                      tensor.decays ? static_cast<float>(optimizer.weight_decay) : 0.0F,
                      {now.master.data() + at, now.m.data() + at, now.v.data() + at, gradient + at,
                       next.master.data() + at, next.m.data() + at, next.v.data() + at,
                       weights == nullptr ? nullptr : weights + at}});
  }
}

}  // namespace holdfast::train
