// A stage group in one process: every lane is a thread with a model of its own, and all lanes run a
// list of micro-batches round by round, as the trainer does.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "base/check.h"
#include "tests/train/model/thread_group.h"
#include "train/kernels/backend.h"
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

template <class T>
using Backend = CpuBackend<T>;

// What one lane holds: everything dense, and the experts of its slots. Reads the groups as they are at
// that moment: refresh() after they have changed.
template <class T>
class LaneWeights final : public Weights<Backend<T>> {
 public:
  LaneWeights(const Groups<T>& groups, const ParameterLayout& layout, const Placement& placement,
              uint32_t lane)
      : groups_(groups) {
    for (uint32_t l = 0; l < placement.layers.size(); ++l) {
      experts_.emplace_back();
      for (const ExpertIndex e : hosted_experts(placement.layers[l], lane))
        experts_.back().groups.push_back(layout.expert(LayerIndex(l), e));
      stride_ = layout.group(layout.expert(LayerIndex(l), ExpertIndex(0))).elements + 3;
    }
    refresh();
  }
  void refresh() {
    for (LayerExperts& layer : experts_) {
      layer.values.assign(layer.groups.size() * stride_, T{});
      for (size_t i = 0; i < layer.groups.size(); ++i)
        std::copy(groups_[layer.groups[i].value].begin(), groups_[layer.groups[i].value].end(),
                  layer.values.begin() + static_cast<long>(i * stride_));
    }
  }
  const T* group(GroupIndex group) const override { return groups_[group.value].data(); }
  kernels::ExpertTensors<const T*> experts(LayerIndex layer) const override {
    return {experts_[layer.value].values.data(), stride_};
  }
  const std::vector<GroupIndex>& hosted(LayerIndex layer) const {
    return experts_[layer.value].groups;
  }

 private:
  struct LayerExperts {
    std::vector<GroupIndex> groups;
    std::vector<T> values;
  };
  const Groups<T>& groups_;
  std::vector<LayerExperts> experts_;
  size_t stride_ = 0;
};

// Hands the experts of a layer to a sink by their groups.
template <class T>
class SinkBase : public GradientSink<Backend<T>>, private kernels::ExpertGradients<T> {
 public:
  SinkBase(const LaneWeights<T>& weights) : weights_(weights) {}
  kernels::ExpertGradients<T>& experts(LayerIndex layer) override {
    layer_ = layer;
    return *this;
  }

 private:
  using Target = typename kernels::ExpertGradients<T>::Target;
  Target begin(uint32_t hosted) override {
    const auto target = this->begin(weights_.hosted(layer_).at(hosted));
    return {target.at, target.into};
  }
  Status commit(uint32_t hosted) override { return this->commit(weights_.hosted(layer_)[hosted]); }
  using GradientSink<Backend<T>>::begin;
  using GradientSink<Backend<T>>::commit;
  const LaneWeights<T>& weights_;
  LayerIndex layer_;
};

// Sums as the default mode does, in the model's own type.
template <class T>
class PlainSink final : public SinkBase<T> {
 public:
  using Sum = T;
  PlainSink(const ParameterLayout& layout, const LaneWeights<T>& weights) : SinkBase<T>(weights) {
    for (const GroupSpec& group : layout.groups()) sums.emplace_back(group.elements);
  }
  GradientTarget<T> begin(GroupIndex group) override {
    return {sums[group.value].data(), kernels::Into::kAdd};
  }
  Status commit(GroupIndex) override { return {}; }
  Groups<T> sums;
};

// Sums in fixed point as the reproducible mode does.
template <class T>
class FixedPointSink final : public SinkBase<T> {
 public:
  using Sum = int64_t;
  FixedPointSink(const ParameterLayout& layout, const LaneWeights<T>& weights)
      : SinkBase<T>(weights) {
    for (const GroupSpec& group : layout.groups()) sums.emplace_back(group.elements);
  }
  GradientTarget<T> begin(GroupIndex group) override {
    scratch_.assign(sums[group.value].size(), T{7});  // all of it is overwritten
    return {scratch_.data(), kernels::Into::kOverwrite};
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
  std::optional<double> capacity_factor = {};
  bool rooms = false;
};

// The same for any number of lanes.
inline Capacity capacity_of(const conf::ModelConfig& model, const std::vector<MicroBatch>& batches,
                            double factor) {
  return static_capacity(model.layers, model.experts,
                         {factor, model.experts + 1, batches.front().tokens.size(), model.top_k});
}

// Micro-batch j runs on lane j mod lanes in round j / lanes; the last round may have idle lanes.
template <class Sink, class T>
void run_lane(Communicator& comm, const conf::ModelConfig& config, const Groups<T>& weights,
              const std::vector<MicroBatch>& batches, const Placement& placement, GroupMode mode,
              GroupRun<T, typename Sink::Sum>& run,
              std::vector<typename Sink::Sum>* sums) {
  const ParameterLayout layout(config, 1);
  const LaneWeights<T> here(weights, layout, placement, comm.rank());
  Sink sink(layout, here);
  kernels::Cpu cpu;
  MoeModel<Backend<T>> model(cpu, config);
  HostPayload payload(comm);
  const Capacity capacity = capacity_of(config, batches, mode.capacity_factor.value_or(1));
  const ModelContext context{comm,
                             payload,
                             placement,
                             mode.reproducible,
                             mode.loss_scale,
                             mode.capacity_factor ? &capacity : nullptr,
                             mode.rooms};
  const size_t rounds = (batches.size() + comm.size() - 1) / comm.size();
  for (size_t round = 0; round < rounds; ++round) {
    const size_t j = round * comm.size() + comm.rank();
    const MicroBatch* batch = j < batches.size() ? &batches[j] : nullptr;
    auto done = model.forward(batch, here, context);
    CHECK(done.has_value(), "{}", done.error().to_string());
    if (batch != nullptr) run.losses[j] = done->stash->loss();
    CHECK(model.input_gradient(done->stash.get(), *done->hosted, here, context).has_value());
    CHECK(model.weight_gradient(*done->stash, sink).has_value());
    CHECK(model.expert_weight_gradient(*done->hosted, sink).has_value());
  }
  std::move(sink.sums.begin(), sink.sums.end(), sums);
}

template <class Sink, class T>
GroupRun<T, typename Sink::Sum> run_group(const conf::ModelConfig& config, const Groups<T>& weights,
                                          const std::vector<MicroBatch>& batches,
                                          const Placement& placement, GroupMode mode) {
  const ParameterLayout layout(config, 1);
  const uint32_t lanes = placement.layers.front().lanes();
  GroupRun<T, typename Sink::Sum> run;
  run.losses.resize(batches.size());
  std::vector<Groups<typename Sink::Sum>> sums(
      lanes, Groups<typename Sink::Sum>(layout.groups().size()));
  ThreadGroup group(lanes);
  std::vector<std::thread> threads;
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    threads.emplace_back([&, lane] {
      ThreadGroup::Rank comm(group, lane);
      run_lane<Sink>(comm, config, weights, batches, placement, mode, run, sums[lane].data());
    });
  }
  for (std::thread& thread : threads) thread.join();
  run.gradients = std::move(sums[0]);
  for (uint32_t lane = 1; lane < lanes; ++lane)
    for (size_t g = 0; g < run.gradients.size(); ++g)
      for (size_t i = 0; i < run.gradients[g].size(); ++i)
        run.gradients[g][i] += sums[lane][g][i];
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
