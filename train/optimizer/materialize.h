// Materialize: compute weights from shards. Owners send their slices to every lane that computes with
// the group: dense groups to all, experts to the lanes whose slots hold them (section 5.6 of
// DESIGN.md; SYMI, arXiv 2504.19925, section 4).
#pragma once

#include <vector>

#include "base/result.h"
#include "train/comm/communicator.h"
#include "train/model/moe_model.h"
#include "train/optimizer/shard_store.h"
#include "train/optimizer/stage_map.h"

namespace holdfast::train {

class ComputeWeights final : public Weights<float> {
 public:
  const float* group(GroupIndex group) const override {
    return groups_[group.value].empty() ? nullptr : groups_[group.value].data();
  }

 private:
  friend Status materialize(Communicator&, const StageMap&, ShardStore&, ComputeWeights&);
  std::vector<std::vector<float>> groups_;
};

// Called by all lanes, with every owned shard complete. Errors: the communicator's; the weights are
// then of no use until the next materialize.
Status materialize(Communicator& comm, const StageMap& map, ShardStore& store,
                   ComputeWeights& weights);

}  // namespace holdfast::train
