// A stage group in one process: every lane is a thread with a model of its own, and all lanes run a
// list of micro-batches round by round, as the trainer does.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <thread>
#include <vector>

#include "base/check.h"
#include "tests/train/model/thread_group.h"
#include "train/model/moe_model.h"

namespace holdfast::train {

inline conf::ModelConfig small_model() {
  conf::ModelConfig model;
  model.vocabulary = 11;
  model.layers = 2;
  model.width = 8;
  model.heads = 4;
  model.kv_heads = 2;
  model.experts = 5;
  model.top_k = 2;
  model.expert_width = 6;
  model.context = 6;
  model.load_balance_weight = 0.3;
  model.z_loss_weight = 0.2;
  return model;
}

inline std::vector<MicroBatch> random_batches(const conf::ModelConfig& model, uint64_t seed,
                                              size_t count, uint32_t sequences) {
  std::mt19937_64 random(seed);
  std::vector<MicroBatch> batches(count);
  for (MicroBatch& batch : batches) {
    batch.sequences = sequences;
    batch.context = model.context;
    for (uint32_t i = 0; i < sequences * model.context; ++i) {
      batch.tokens.push_back(static_cast<int32_t>(random() % model.vocabulary));
      batch.targets.push_back(static_cast<int32_t>(random() % model.vocabulary));
    }
  }
  return batches;
}

template <class T>
using Groups = std::vector<std::vector<T>>;

// Large enough that every path of the model matters.
template <class T>
Groups<T> random_weights(const conf::ModelConfig& model, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  Groups<T> groups;
  const ParameterLayout layout(model, 1);
  for (const GroupSpec& group : layout.groups()) {
    groups.emplace_back(group.elements);
    for (const TensorSpec& tensor : group.tensors)
      for (size_t i = 0; i < tensor.elements(); ++i)
        groups.back()[tensor.offset + i] =
            static_cast<T>(tensor.decays ? 0.4 * normal(random) : 1.0 + 0.2 * normal(random));
  }
  return groups;
}

// What one lane holds: everything dense, and the experts of its slots.
template <class T>
class LaneWeights final : public Weights<T> {
 public:
  LaneWeights(const Groups<T>& groups, const ParameterLayout& layout, const Placement& placement,
              uint32_t lane) {
    for (const GroupSpec& group : layout.groups()) {
      const bool here = group.kind != GroupKind::kExpert || [&] {
        const auto& slots = placement.layers[group.layer.value].slots[lane];
        return std::find(slots.begin(), slots.end(), group.expert) != slots.end();
      }();
      groups_.push_back(here ? groups[group.index.value].data() : nullptr);
    }
  }
  const T* group(GroupIndex group) const override { return groups_[group.value]; }

 private:
  std::vector<const T*> groups_;
};

// Sums as the default mode does, in the model's own type.
template <class T>
class PlainSink final : public GradientSink<T> {
 public:
  using Sum = T;
  explicit PlainSink(const ParameterLayout& layout) {
    for (const GroupSpec& group : layout.groups()) sums.emplace_back(group.elements);
  }
  T* begin(GroupIndex group) override { return sums[group.value].data(); }
  Status commit(GroupIndex) override { return {}; }
  Groups<T> sums;
};

// Sums in fixed point as the reproducible mode does.
template <class T>
class FixedPointSink final : public GradientSink<T> {
 public:
  using Sum = int64_t;
  explicit FixedPointSink(const ParameterLayout& layout) {
    for (const GroupSpec& group : layout.groups()) sums.emplace_back(group.elements);
  }
  T* begin(GroupIndex group) override {
    scratch_.assign(sums[group.value].size(), T{});
    return scratch_.data();
  }
  Status commit(GroupIndex group) override {
    for (size_t i = 0; i < scratch_.size(); ++i)
      sums[group.value][i] += std::llround(std::ldexp(static_cast<double>(scratch_[i]), 44));
    return {};
  }
  Groups<int64_t> sums;

 private:
  std::vector<T> scratch_;
};

template <class T, class Sum>
struct GroupRun {
  std::vector<MicroBatchLoss> losses;  // by micro-batch
  Groups<Sum> gradients;               // summed over lanes, in their order
};

struct GroupMode {
  bool reproducible = false;
  double loss_scale = 1.0;
};

// Micro-batch j runs on lane j mod lanes in round j / lanes; the last round may have idle lanes.
template <class Sink, class T>
void run_lane(Communicator& comm, const conf::ModelConfig& config, const Groups<T>& weights,
              const std::vector<MicroBatch>& batches, const Placement& placement, GroupMode mode,
              GroupRun<T, typename Sink::Sum>& run, Sink& sink) {
  const ParameterLayout layout(config, 1);
  const LaneWeights<T> here(weights, layout, placement, comm.rank());
  MoeModel<T> model(config);
  const ModelContext context{comm, placement, mode.reproducible, mode.loss_scale};
  const size_t rounds = (batches.size() + comm.size() - 1) / comm.size();
  for (size_t round = 0; round < rounds; ++round) {
    const size_t j = round * comm.size() + comm.rank();
    const MicroBatch* batch = j < batches.size() ? &batches[j] : nullptr;
    auto stash = model.forward(batch, here, context);
    CHECK(stash.has_value(), "{}", stash.error().to_string());
    if (batch != nullptr) run.losses[j] = (*stash)->loss();
    CHECK(model.input_gradient(**stash, here, context).has_value());
    CHECK(model.weight_gradient(**stash, sink).has_value());
    CHECK(model.expert_weight_gradient(**stash, sink).has_value());
  }
}

template <class Sink, class T>
GroupRun<T, typename Sink::Sum> run_group(const conf::ModelConfig& config, const Groups<T>& weights,
                                          const std::vector<MicroBatch>& batches,
                                          const Placement& placement, GroupMode mode) {
  const ParameterLayout layout(config, 1);
  const uint32_t lanes = placement.layers.front().lanes();
  GroupRun<T, typename Sink::Sum> run;
  run.losses.resize(batches.size());
  std::vector<Sink> sinks(lanes, Sink(layout));
  ThreadGroup group(lanes);
  std::vector<std::thread> threads;
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    threads.emplace_back([&, lane] {
      ThreadGroup::Rank comm(group, lane);
      run_lane(comm, config, weights, batches, placement, mode, run, sinks[lane]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  run.gradients = sinks[0].sums;
  for (uint32_t lane = 1; lane < lanes; ++lane)
    for (size_t g = 0; g < run.gradients.size(); ++g)
      for (size_t i = 0; i < run.gradients[g].size(); ++i)
        run.gradients[g][i] += sinks[lane].sums[g][i];
  return run;
}

// Every slot filled, experts contiguous, some of them several times; layers differ.
inline Placement spread(const conf::ModelConfig& model, uint32_t lanes, uint32_t slots_per_lane) {
  const uint32_t slots = lanes * slots_per_lane;
  CHECK(slots >= model.experts);
  Placement placement;
  for (uint32_t layer = 0; layer < model.layers; ++layer) {
    LayerPlacement places;
    places.slots.resize(lanes);
    for (uint32_t slot = 0; slot < slots; ++slot) {
      // Layer 0 spreads evenly, odd layers give every spare slot to the last expert.
      const uint32_t expert =
          layer % 2 == 0 ? slot * model.experts / slots : std::min(slot, model.experts - 1);
      places.slots[slot / slots_per_lane].push_back(ExpertIndex(expert));
    }
    placement.layers.push_back(std::move(places));
  }
  return placement;
}

}  // namespace holdfast::train
