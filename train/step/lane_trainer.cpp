#include "train/step/lane_trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/fault_point.h"
#include "train/kernels/backends.h"
#include "train/optimizer/adamw.h"
#include "train/step/counting_communicator.h"
#include "train/step/out_of_memory.h"
#include "train/step/round_runner.h"

namespace holdfast::train {
namespace {

// Of the job's nominal slots, whoever is alive.
std::optional<Capacity> capacity_of(const conf::JobConfig& job) {
  const std::optional<double> factor = job.capacity();
  if (!factor) return std::nullopt;
  const size_t tokens = size_t{job.micro_batch_sequences} * job.model.context;
  return static_capacity(job.model.layers, job.model.experts,
                         {*factor, job.pipelines * job.slots(), tokens, job.model.top_k});
}

}  // namespace

template <class B>
LaneTrainer<B>::LaneTrainer(std::unique_ptr<typename B::Device> device, const conf::JobConfig& job,
                            BatchSource batches, AbortWord& abort, ProgressFn progress)
    : job_(job),
      layout_(job.model, job.slices()),
      stages_(split_layers(job.model, job.stages)),
      capacity_(capacity_of(job)),
      batches_(std::move(batches)),
      abort_(abort),
      progress_(std::move(progress)),
      device_(std::move(device)),
      payload_(*device_, marker()),
      store_(*device_, layout_),
      gradients_(*device_, job.reproducible),
      reducer_(*device_) {
  if constexpr (!B::kHostMemory) {
    static_assert(AbortWord::kBit == B::Device::kViewEnded);
    abort_.mirror(&device_->abort_word());
  }
}

template <class B>
LaneTrainer<B>::~LaneTrainer() {
  payload_.close();
  static_cast<void>(device_->finish());
  abort_.mirror(nullptr);
}

template <class B>
size_t LaneTrainer<B>::shard_bytes(uint32_t shard) const {
  return layout_.shard_bytes(ShardId::unflat(shard, layout_.slices()));
}

// ---- progress -------------------------------------------------------------------------------------

template <class B>
void LaneTrainer<B>::at(Step step, uint32_t round, bool waiting) {
  at_step_.store(step, std::memory_order_relaxed);
  at_round_.store(round, std::memory_order_relaxed);
  progress_(step, round, waiting || kWaits);
}

template <class B>
MarkFn LaneTrainer<B>::marker() const {
  return [this] {
    progress_(at_step_.load(std::memory_order_relaxed), at_round_.load(std::memory_order_relaxed),
              kWaits);
  };
}

// ---- a step ---------------------------------------------------------------------------------------

template <class B>
ModelContext LaneTrainer<B>::context(const Wires& wires) const {
  return {wires.stage,
          wires.payload,
          map_.placement,
          job_.reproducible,
          1.0 / (static_cast<double>(job_.pipelines) * job_.micro_batches),
          capacity_ ? &*capacity_ : nullptr,
          !B::kHostMemory && job_.stages == 1};  // rooms cannot be put together anew for an I round
}

// Where stages clip by their own norm, nothing after the rounds talks to another stage, and yet no lane gets
// more than one version ahead of another. Whoever ends the rounds of step k has F of its micro-batches from
// the stages before and I from those after; a round is of all lanes of its stage, which tell each other how
// many rows they send; so every lane of every stage has begun step k, with version k made. Hence, while the
// lane that is furthest behind holds version k at the newest, nobody holds more than k + 1; who holds k + 1
// still has k in the other buffer, since the update that overwrites it comes after the rounds of step
// k + 1, which nobody can end before all have made k + 1. Both buffers together always hold the version that
// all have.
template <class B>
Result<StepDone> LaneTrainer<B>::run_step(ViewCommunicator& comm, Step step) {
  CHECK(materialized_ && store_.current().version == Version(step.value));
  return settled(take_step(comm, step));
}

template <class B>
Result<StepDone> LaneTrainer<B>::take_step(ViewCommunicator& view, Step step) try {
  const auto begun = std::chrono::steady_clock::now();
  CountingCommunicator all(view), stage(*stage_group_);
  PayloadExchange& payload = payload_.over(stage);
  Communicator& together = job_.staggered() ? static_cast<Communicator&>(stage) : all;
  const Wires wires{all, stage, together, payload, payload_.hand_over(view)};
  uint64_t handed_over = 0;
  const uint64_t sent_before = payload.sent_bytes();
  const auto sent = [&] {
    return handed_over + all.sent_bytes() + stage.sent_bytes() + payload.sent_bytes() - sent_before;
  };
  StepDone done;
  done.epoch = epoch_;
  done.step = step;
  done.lane = member_;
  if (job_.staggered()) done.of_stage = StageShare{stage_, job_.stages};

  ASSIGN_OR_RETURN(handed_over, run_rounds(wires, step));
  fault_point("train.reduce");
  RETURN_IF_ERROR(reducer_.reduce(payload, map_, gradients_));
  RETURN_IF_ERROR(gather_losses(wires.step, done));
  // Every lane has sent its part of the norm only after its own reduce: all sums are whole.
  ASSIGN_OR_RETURN(done.gradient_norm,
                   reducer_.norm(wires.step, layout_, job_.staggered() ? map_.owner_lane : owners_));
  RETURN_IF_ERROR(update(done));

  // The version exists now; what fails below does not take it back.
  done.bytes_exchanged = sent();
  done.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  finished_ = done;
  if (evaluation_is_due(Version(step.value + 1))) unevaluated_ = done;
  materialized_ = false;
  RETURN_IF_ERROR(make_weights(payload));
  done.bytes_exchanged = sent();
  done.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  if (evaluation_is_due(Version(step.value + 1))) {
    ASSIGN_OR_RETURN(done.held_out_loss, evaluate(wires));
  }
  finished_.reset();
  unevaluated_.reset();
  return done;
} catch (const std::bad_alloc& error) {
  return out_of_memory(error);
}

// To what the job's [synthetic] table says.
template <class B>
Status LaneTrainer<B>::lengthen(Step step, double ms, std::chrono::steady_clock::time_point since) {
  if (ms <= 0) return {};
  at(step, at_round_, true);
  const std::chrono::duration<double, std::milli> time(ms);
  if (abort_.wait_until(since + std::chrono::round<std::chrono::nanoseconds>(time)))
    return fail(ErrorCode::kCommAborted, "the view ended during the step");
  at(step, at_round_);
  return {};
}

// Returns the bytes that went to neighbouring stages.
template <class B>
Result<uint64_t> LaneTrainer<B>::run_rounds(const Wires& wires, Step step) {
  gradients_.reset(map_);
  losses_.clear();
  const ModelContext context = this->context(wires);
  const MarkedWeights<B> weights(weights_, marker());
  MarkedGradients<B> gradients(gradients_, marker());
  RoundRunner<B> runner({*device_, *model_, weights, gradients, context, wires.hand_over,
                         [&](MicroBatchIndex j) { return batches_.training(step, j); }, sizes(),
                         activations(), most_held_,
                         [&](double ms, auto since) { return lengthen(step, ms, since); }});
  uint32_t number = 0;
  for (const LaneRound& round : rounds_) {
    at(step, number++);
    if (round.work == Work::kForward) fault_point("train.forward");
    RETURN_IF_ERROR(runner.run(round));
  }
  RETURN_IF_ERROR(runner.finish(job_.staggered()));
  losses_ = runner.losses();
  gradients_.close();
  return runner.sent_bytes();
}

template <class B>
Status LaneTrainer<B>::update(StepDone& done) {
  if (!std::isfinite(done.gradient_norm))
    return fail(ErrorCode::kLossNotFinite,
                fmt::format("step {}: the gradient norm is {}", done.step.value,
                            done.gradient_norm));
  const double clip = job_.optimizer.clip;
  done.learning_rate = learning_rate(job_.optimizer, job_.steps, done.step);
  const AdamwStep adamw_step{done.learning_rate,
                             clip > 0 && done.gradient_norm > clip ? clip / done.gradient_norm : 1,
                             done.step.value + 1};
  fault_point("train.update");
  at(done.step, at_round_, true);  // a capture may hold the buffer for a while
  done.stall_seconds = store_.begin_update();
  at(done.step, at_round_);
  const auto begun = std::chrono::steady_clock::now();
  const kernels::AdamwConstants constants = adamw_constants(job_.optimizer, adamw_step);
  // A lane that is alone computes with what it updates; else materialize brings the weights.
  const bool makes_weights = map_.lanes == 1 && !B::kHostMemory;
  std::vector<kernels::AdamwRange<typename B::Value>> ranges;
  for (const uint32_t shard : store_.owned()) {
    // An aborted reduction never becomes a version: nothing is committed once the word is set.
    if (abort_.is_set()) return fail(ErrorCode::kCommAborted, "the view ended before the update");
    at(done.step, at_round_);
    const ShardId id = map_.shard(shard);
    const ElementRange range = layout_.range(id);
    append_ranges(job_.optimizer, layout_.group(id.group), range, store_.now(shard),
                  reducer_.values(shard), store_.next(shard),
                  makes_weights ? weights_.at(id.group, range.begin) : nullptr, ranges);
    if (!B::kHostMemory) continue;
    adamw(*device_, constants, ranges);
    ranges.clear();
  }
  adamw(*device_, constants, ranges);
  at(done.step, at_round_);  // enqueued; the device may take its time
  weights_made_ = makes_weights;
  RETURN_IF_ERROR(device_->finish());
  if (job_.synthetic) RETURN_IF_ERROR(lengthen(done.step, job_.synthetic->update_ms, begun));
  if (abort_.is_set()) return fail(ErrorCode::kCommAborted, "the view ended before the update");
  store_.commit_update({Version(done.step.value + 1), epoch_});
  fault_point("train.updated");
  return {};
}

template class LaneTrainer<CpuBackend<float>>;
#define INSTANTIATE(B) template class LaneTrainer<B>;
HOLDFAST_FOR_EACH_ACCELERATOR(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
