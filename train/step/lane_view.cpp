// A view, from opening it to its first weights: LaneTrainer's part before any step.
#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/fault_point.h"
#include "train/kernels/backends.h"
#include "train/optimizer/init.h"
#include "train/step/lane_room.h"
#include "train/step/lane_trainer.h"
#include "train/step/out_of_memory.h"

namespace holdfast::train {

template <class B>
Status LaneTrainer<B>::reserve() {
  const LaneRoom room = lane_room(layout_, job_);
  try {
    store_.reserve(room.shard_elements);
    weights_.reserve(room.hosted_elements);
    gradients_.reserve(room.hosted_elements);
    reducer_.reserve(layout_.shard_count(), room.summed_elements);
    return {};
  } catch (const std::bad_alloc& error) {
    return fail(ErrorCode::kDeviceMemory,
                fmt::format("a lane of this job needs {} bytes for shards, and {} for weights and "
                            "gradients, when {} of {} lanes are left as `tolerate` allows: {}",
                            room.shard_bytes(),
                            room.hosted_elements * (sizeof(typename B::Value) + sizeof(float)) +
                                room.summed_elements * sizeof(float),
                            room.lanes, job_.pipelines, error.what()));
  }
}

template <class B>
Status LaneTrainer<B>::open_view(const TrainerView& view) try {
  CHECK(view.owner_lane.size() == layout_.shard_count() && view.lane < view.coordinates.size());
  ASSIGN_OR_RETURN(Members members, members_of(view.coordinates, view.stages, job_.stages));
  ASSIGN_OR_RETURN(plan_, plan_of_job(job_, members.pipelines));
  payload_.close();  // only now: all lanes of the view before have ended it
  stage_group_.reset();
  epoch_ = view.epoch;
  members_ = std::move(members);
  open_map(view);
  rounds_ = rounds_of_lane(plan_, members_, stage_, map_.lane);
  if (job_.synthetic) set_synthetic_times(rounds_, map_.lanes, *job_.synthetic);
  most_held_ = most_held(rounds_);
  if (!model_ || model_->stage() != map_.stage) model_.emplace(*device_, job_.model, map_.stage);
  std::vector<uint32_t> owned;
  for (uint32_t shard = 0; shard < view.owner_lane.size(); ++shard)
    if (view.owner_lane[shard] == view.lane) owned.push_back(shard);
  store_.open(owned, view.base);
  weights_.open(map_);
  weights_made_ = false;
  materialized_ = false;
  losses_.clear();
  finished_.reset();
  if (unevaluated_ &&
      StateVersion{Version(unevaluated_->step.value + 1), unevaluated_->epoch} != view.base)
    unevaluated_.reset();
  return {};
} catch (const std::bad_alloc& error) {
  return out_of_memory(error);
}

// This lane's place, and its stage group's map.
template <class B>
void LaneTrainer<B>::open_map(const TrainerView& view) {
  member_ = view.lane;
  owners_ = view.owner_lane;
  stage_ = members_.stage_of(member_);
  const uint32_t lanes = members_.lanes(stage_);
  map_ = StageMap{&layout_,
                  place_static(job_.model.layers, job_.model.experts, lanes,
                               slots_per_lane(job_.slots(), job_.model.experts, lanes)),
                  std::vector<uint32_t>(owners_.size(), kNoLane),
                  members_.lane_of(member_),
                  lanes,
                  stages_[stage_]};
  for (uint32_t flat = 0; flat < owners_.size(); ++flat) {
    const uint32_t stage = stage_of(stages_, layout_.group(map_.shard(flat).group));
    CHECK(members_.stage_of(owners_[flat]) == stage, "shard {} of stage {} is owned by member {}",
          flat, stage, owners_[flat]);
    if (stage == stage_) map_.owner_lane[flat] = members_.lane_of(owners_[flat]);
  }
}

template <class B>
Status LaneTrainer<B>::load_shard(uint32_t shard, std::span<const std::byte> payload) try {
  if (payload.size() != shard_bytes(shard))
    return fail(ErrorCode::kRestoreImpossible,
                fmt::format("shard {} has {} bytes, {} were given", shard, shard_bytes(shard),
                            payload.size()));
  store_.load(shard, payload);
  return {};
} catch (const std::bad_alloc& error) {
  return out_of_memory(error);
}

template <class B>
Status LaneTrainer<B>::init_shard(uint32_t shard) try {
  const ShardId id = map_.shard(shard);
  const ElementRange range = layout_.range(id);
  std::vector<float> state(3 * range.size());  // m and v are zero
  initial_values(job_.seed, layout_.group(id.group), range, std::span(state).first(range.size()));
  store_.load_now(shard, std::as_bytes(std::span(state)));
  return {};
} catch (const std::bad_alloc& error) {
  return out_of_memory(error);
}

// Another text on one node would train on silently, and no step could be repeated elsewhere.
template <class B>
Status LaneTrainer<B>::compare_data(Communicator& comm) const {
  std::vector<DataFingerprint> all(members_.count());
  const std::vector<size_t> sizes(members_.count(), sizeof(DataFingerprint));
  RETURN_IF_ERROR(comm.all_gather(std::as_bytes(std::span(&batches_.data, 1)),
                                  std::as_writable_bytes(std::span(all)), sizes));
  const auto as_many = [&](const DataFingerprint& data) {
    return std::count(all.begin(), all.end(), data);
  };
  const auto usual = std::max_element(
      all.begin(), all.end(), [&](const auto& a, const auto& b) { return as_many(a) < as_many(b); });
  if (*usual == batches_.data) return {};
  return fail(ErrorCode::kDataDiffers,
              fmt::format("{} has {} tokens with checksum {:016x} on lane {}, but {} with checksum "
                          "{:016x} on lane {}",
                          job_.data.path, batches_.data.tokens, batches_.data.checksum, member_,
                          usual->tokens, usual->checksum, usual - all.begin()));
}

template <class B>
Status LaneTrainer<B>::materialize(ViewCommunicator& comm) {
  return settled(begin_view(comm));
}

template <class B>
Status LaneTrainer<B>::begin_view(ViewCommunicator& comm) try {
  CHECK(comm.size() == members_.count() && comm.rank() == member_);
  if (!store_.complete())
    return fail(ErrorCode::kRestoreImpossible,
                fmt::format("not every owned shard is at {}", to_string(store_.current())));
  RETURN_IF_ERROR(compare_data(comm));
  stage_group_ = comm.group(members_.group(stage_));
  RETURN_IF_ERROR(payload_.open(comm, *stage_group_, members_.first));
  PayloadExchange& payload = payload_.over(*stage_group_);
  RETURN_IF_ERROR(make_weights(payload));
  Communicator& together = job_.staggered() ? *stage_group_ : comm;
  return make_up_evaluation({comm, *stage_group_, together, payload, payload_.hand_over(comm)});
} catch (const std::bad_alloc& error) {
  return out_of_memory(error);
}

template <class B>
Status LaneTrainer<B>::make_weights(PayloadExchange& payload) {
  fault_point("train.materialize");
  if (!std::exchange(weights_made_, false)) {
    RETURN_IF_ERROR(train::materialize(*device_, payload, map_, store_, scratch_, weights_));
    RETURN_IF_ERROR(device_->finish());
  }
  materialized_ = true;
  return {};
}

#define INSTANTIATE(B)                                                                          \
  template Status LaneTrainer<B>::reserve();                                                    \
  template Status LaneTrainer<B>::open_view(const TrainerView&);                                \
  template void LaneTrainer<B>::open_map(const TrainerView&);                                   \
  template Status LaneTrainer<B>::load_shard(uint32_t, std::span<const std::byte>);             \
  template Status LaneTrainer<B>::init_shard(uint32_t);                                         \
  template Status LaneTrainer<B>::materialize(ViewCommunicator&);                               \
  template Status LaneTrainer<B>::make_weights(PayloadExchange&);
INSTANTIATE(CpuBackend<float>)
HOLDFAST_FOR_EACH_ACCELERATOR(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
