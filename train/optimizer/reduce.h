// Reduce: each gradient slice goes to the owner of its shard, who sums the lanes' contributions in lane
// order (section 5.3 of DESIGN.md). And the norm of what came out.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "base/result.h"
#include "train/comm/payload.h"
#include "train/optimizer/gradients.h"
#include "train/optimizer/stage_map.h"

namespace holdfast::train {

// Summed gradients of the owned shards, and the room to get them; one per trainer.
template <class B>
class Reducer {
 public:
  explicit Reducer(typename B::Device& device) : device_(device) {}

  // Memory for so many owned shards with so many elements, before they come.
  void reserve(size_t shards, size_t elements) {
    sums_.resize(elements);
    shard_squares_.resize(shards);
    host_squares_.resize(shards);
  }

  // Called by all lanes, after gradients.close(). Errors: the communicator's, the device's,
  // kGradientOverflow.
  Status reduce(PayloadExchange& payload, const StageMap& map, const Gradients<B>& gradients);

  // L2 norm over the shards that the ranks of `comm` own, all stages' or one's; the same on every rank.
  // Waits for the device. owners: by flat shard, the rank, kNoLane where it is not among them. Default
  // mode: squares are summed by shard, then in shard order. Reproducible mode: in 128-bit integers, so
  // that owners and P do not matter.
  Result<double> norm(Communicator& comm, const ParameterLayout& layout,
                      std::span<const uint32_t> owners);

  // Of one owned shard; lives as long as neither this nor the gradients are used for another step.
  const float* values(uint32_t shard) const { return values_.at(shard); }

 private:
  __extension__ using Int128 = __int128;
  Status reduce_fixed(PayloadExchange& payload, const StageMap& map, const Gradients<B>& gradients);
  Status reduce_sums(PayloadExchange& payload, const StageMap& map, const Gradients<B>& gradients);
  Result<double> exact_norm(Communicator& comm) const;
  void open(const StageMap& map);

  typename B::Device& device_;
  bool reproducible_ = false;
  std::map<uint32_t, const float*> values_;
  std::map<uint32_t, float*> own_;  // of them, those in sums_
  typename B::template Room<float> sums_;  // of the owned shards; empty on one lane
  typename B::template Room<float> send_, recv_;
  Int128 squares_ = 0;  // reproducible mode
  typename B::template Room<double> shard_squares_;
  typename B::template HostRoom<double> host_squares_;
};

}  // namespace holdfast::train
