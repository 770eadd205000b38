// Reduce: each gradient slice goes to the owner of its shard, who sums the lanes' contributions in lane
// order (section 5.3 of DESIGN.md). And the global norm of what came out.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/result.h"
#include "train/comm/communicator.h"
#include "train/optimizer/gradients.h"
#include "train/optimizer/stage_map.h"

namespace holdfast::train {

// Summed gradients of the owned shards.
class ReducedGradients {
 public:
  // Of one shard, in fp32 (fixed point is converted here).
  std::vector<float> values(uint32_t shard) const;

 private:
  friend Result<ReducedGradients> reduce(Communicator&, const StageMap&, const Gradients&);
  friend Result<double> global_norm(Communicator&, const StageMap&, const ReducedGradients&);
  std::map<uint32_t, std::vector<float>> sums_;
  std::map<uint32_t, std::vector<int64_t>> fixed_;
  bool reproducible_ = false;
};

// Called by all lanes. Errors: the communicator's, kGradientOverflow.
Result<ReducedGradients> reduce(Communicator& comm, const StageMap& map,
                                const Gradients& gradients);

// L2 norm over all parameters, the same on every lane. Default mode: squares are summed by shard, then
// in shard order. Reproducible mode: in 128-bit integers, so that owners and P do not matter.
Result<double> global_norm(Communicator& comm, const StageMap& map,
                           const ReducedGradients& gradients);

}  // namespace holdfast::train
