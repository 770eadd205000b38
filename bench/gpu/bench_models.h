// The models that the GPU benchmarks speak of, and what their jobs have in common.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "train/step/lane_trainer.h"

namespace holdfast::bench {

using namespace holdfast::train;

struct Bench {
  conf::ModelConfig model;
  uint32_t sequences;
};

inline conf::ModelConfig mixtral_like(uint32_t width, uint32_t layers, uint32_t heads, uint32_t ffn,
                               uint32_t experts, uint32_t top_k) {
  conf::ModelConfig model;
  model.vocabulary = 50304;
  model.layers = layers;
  model.width = width;
  model.heads = model.kv_heads = heads;
  model.experts = experts;
  model.top_k = top_k;
  model.expert_width = ffn;
  model.context = 1024;
  return model;
}

inline const std::map<std::string, Bench>& benches() {
  static const std::map<std::string, Bench> all = {
      {"moe-s16", {mixtral_like(768, 12, 12, 2048, 16, 2), 32}},
      {"moe-1b16", {mixtral_like(1024, 16, 16, 2048, 16, 2), 16}},
      {"moe-s64", {mixtral_like(768, 12, 12, 1024, 64, 8), 16}},
      {"tiny", {mixtral_like(256, 2, 4, 512, 8, 2), 2}},
  };
  return all;
}

// Of forward and backward, for one token: six for every parameter that it meets, and attention over the
// mean half of the context.
inline double flops_per_token(const conf::ModelConfig& m) {
  const double d = m.width, f = m.expert_width;
  const double attention = 2 * d * d + 2 * d * (d / m.heads) * m.kv_heads;
  const double met = m.layers * (attention + m.top_k * 3 * d * f + d * m.experts) +
                     d * m.vocabulary;
  return 6 * met + 6.0 * m.layers * d * m.context;
}

// Made before the clock runs, and used again: those of four steps, each micro-batch of a step another one.
inline BatchSource random_tokens(const conf::JobConfig& job) {
  const auto make = [job](uint64_t key) {
    std::mt19937_64 random(key);
    MicroBatch batch{job.micro_batch_sequences, job.model.context, {}, {}};
    const size_t tokens = size_t{batch.sequences} * batch.context;
    for (auto* row : {&batch.tokens, &batch.targets})
      for (size_t i = 0; i < tokens; ++i)
        row->push_back(static_cast<int32_t>(random() % job.model.vocabulary));
    return batch;
  };
  const uint64_t of_step = uint64_t{job.pipelines} * job.micro_batches;
  auto kept = std::make_shared<std::vector<MicroBatch>>();
  for (uint64_t i = 0; i < 4 * of_step; ++i) kept->push_back(make(i));
  return {[kept, of_step](Step step, MicroBatchIndex j) -> Result<MicroBatch> {
            return (*kept)[(step.value * of_step + j.value) % kept->size()];
          },
          [kept](uint32_t) -> Result<MicroBatch> { return kept->front(); }};
}

// What makes a comparison of a job in stages with the same job on one accelerator worthless; empty: nothing.
// Every stage has an accelerator of its own; `path`: how the trainer says that payload travels.
inline std::string unlike(double loss_one, double loss_stages, const std::string& path) {
  if (!(std::abs(loss_stages - loss_one) <= 1e-3 * std::abs(loss_one)))  // NaN, too
    return fmt::format("the first losses differ: {} on one accelerator, {} in stages", loss_one,
                       loss_stages);
  if (path.starts_with("FOR TESTING") || path.find("by NCCL") == std::string::npos)
    return fmt::format("what stages hand over does not go by NCCL: {}",
                       path.empty() ? "no word of how" : path);
  return {};
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace holdfast::bench
