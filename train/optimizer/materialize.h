// Materialize: compute weights from shards. Owners send their slices to every lane that computes with
// the group: dense groups to all, experts to the lanes whose slots hold them (section 5.6 of
// DESIGN.md; SYMI, arXiv 2504.19925, section 4).
#pragma once

#include "base/result.h"
#include "train/comm/payload.h"
#include "train/model/gradient_sink.h"
#include "train/optimizer/hosted_layout.h"
#include "train/optimizer/shard_store.h"
#include "train/optimizer/stage_map.h"

namespace holdfast::train {

template <class B>
class ComputeWeights final : public Weights<B> {
 public:
  using V = typename B::Value;
  // Memory for maps of up to so many elements, before they come.
  void reserve(size_t elements) { values_.resize(elements); }
  // Room for what this lane hosts; contents undefined where the map has changed.
  void open(const StageMap& map) {
    hosted_ = HostedLayout(map);
    values_.resize(hosted_.elements());
  }
  V* at(GroupIndex group, size_t element) {
    return values_.data() + hosted_.offset(group) + element;
  }
  const V* group(GroupIndex group) const override {
    return values_.data() + hosted_.offset(group);
  }
  kernels::ExpertTensors<const V*> experts(LayerIndex layer) const override {
    return hosted_.expert_tensors(layer, values_.data());
  }

 private:
  HostedLayout hosted_;
  typename B::template Room<V> values_;
};

// What materialize packs and unpacks in; one per trainer.
template <class B>
struct MaterializeScratch {
  typename B::template Room<typename B::Value> send, recv;
};

// Called by all lanes, with every owned shard complete and `weights` open for the map. Errors: the
// communicator's, the device's; the weights are then of no use until the next materialize.
template <class B>
Status materialize(typename B::Device& device, PayloadExchange& payload, const StageMap& map,
                   ShardStore<B>& store, MaterializeScratch<B>& scratch,
                   ComputeWeights<B>& weights);

}  // namespace holdfast::train
