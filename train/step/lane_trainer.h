// The Trainer: joins model, shards and collectives to the step of section 5 of DESIGN.md.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "train/comm/payloads.h"
#include "train/model/moe_model.h"
#include "train/optimizer/gradients.h"
#include "train/optimizer/materialize.h"
#include "train/optimizer/reduce.h"
#include "train/optimizer/shard_store.h"
#include "train/step/lane_rounds.h"
#include "train/step/marks.h"
#include "train/step/members.h"
#include "train/step/step_cause.h"
#include "train/step/trainer.h"

namespace holdfast::train {

// Where batches come from: the job's data, or what a test makes up.
struct BatchSource {
  std::function<Result<MicroBatch>(Step, MicroBatchIndex)> training;
  std::function<Result<MicroBatch>(uint32_t)> held_out;
  DataFingerprint data = {};  // all lanes must have the same
};

// B is a backend (train/kernels/backend.h).
template <class B>
class LaneTrainer final : public Trainer {
 public:
  LaneTrainer(std::unique_ptr<typename B::Device> device, const conf::JobConfig& job,
              BatchSource batches, AbortWord& abort, ProgressFn progress);
  ~LaneTrainer() override;

  // Takes the memory that this lane needs when `tolerate` others are lost, so that it is there then.
  // Once, before the first view; kDeviceMemory names what there is no room for.
  Status reserve();

  std::vector<HeldShards> held() const override { return store_.held(); }
  Status check_device() override {
    if constexpr (B::kHostMemory)
      return {};
    else
      return device_->probe();
  }
  Status open_view(const TrainerView& view) override;
  Status load_shard(uint32_t shard, std::span<const std::byte> payload) override;
  Status init_shard(uint32_t shard) override;
  Status finish_loading() override { return store_.finish_loading(); }
  Status materialize(ViewCommunicator& comm) override;
  Result<StepDone> run_step(ViewCommunicator& comm, Step step) override;
  std::optional<StepDone> take_finished() override { return std::exchange(finished_, {}); }
  std::string payload_path() const override { return payload_.path(); }
  StateVersion current() const override { return store_.current(); }
  std::span<const uint32_t> owned() const override { return store_.owned(); }
  size_t shard_bytes(uint32_t shard) const override;
  std::unique_ptr<Protection> protect_version(Version version, int64_t max_wait_ms) override {
    return store_.protect(version, max_wait_ms);
  }

 private:
  // What one call of run_step or materialize talks through.
  struct Wires {
    Communicator& all;           // all members
    Communicator& stage;         // the stage group
    Communicator& step;          // those that update together: all, or the stage group
    PayloadExchange& payload;    // in it
    PayloadHandOver& hand_over;  // to and from neighbouring stages
  };
  // After an error the device is idle, whatever it waited for.
  template <class Outcome>
  Outcome settled(Outcome outcome) {
    if (outcome) return outcome;
    payload_.abandon();
    const Status idle = device_->finish();
    return idle ? outcome : Outcome(fail(cause_of(outcome.error(), idle.error())));
  }
  Status begin_view(ViewCommunicator& comm);
  Result<StepDone> take_step(ViewCommunicator& comm, Step step);
  void open_map(const TrainerView& view);
  Status compare_data(Communicator& comm) const;
  Status make_weights(PayloadExchange& payload);
  Result<uint64_t> run_rounds(const Wires& wires, Step step);
  Status gather_losses(Communicator& step, StepDone& done);
  Status update(StepDone& done);
  Status lengthen(Step step, double ms, std::chrono::steady_clock::time_point since);
  Result<std::optional<double>> evaluate(const Wires& wires);
  Result<std::optional<double>> evaluate_one(const Wires& wires, uint32_t index);
  Status make_up_evaluation(const Wires& wires);
  bool evaluation_is_due(Version version) const;
  ModelContext context(const Wires& wires) const;
  // The stages that this lane's updates.
  uint32_t first_stage() const { return job_.staggered() ? stage_ : 0; }
  uint32_t end_stage() const { return job_.staggered() ? stage_ + 1 : job_.stages; }
  MicroBatch sizes() const {
    return {job_.micro_batch_sequences, job_.model.context, {}, {}};
  }
  size_t activations() const {
    return size_t{job_.micro_batch_sequences} * job_.model.context * job_.model.width;
  }
  void at(Step step, uint32_t round, bool waiting = false);
  MarkFn marker() const;

  const conf::JobConfig job_;
  const ParameterLayout layout_;
  const std::vector<StageLayers> stages_;
  const std::optional<Capacity> capacity_;  // nullopt: dropless
  const BatchSource batches_;
  AbortWord& abort_;
  const ProgressFn progress_;
  const std::unique_ptr<typename B::Device> device_;
  LanePayload<typename B::Device> payload_;
  ShardStore<B> store_;
  Gradients<B> gradients_;
  Reducer<B> reducer_;
  ComputeWeights<B> weights_;
  MaterializeScratch<B> scratch_;
  std::optional<MoeModel<B>> model_;  // of the stage
  // The host only enqueues and then waits for an accelerator, the first time also for it to be set up:
  // that it stands still says nothing. A device that hangs is found by the steps that do not come.
  static constexpr bool kWaits = !B::kHostMemory;
  std::atomic<Step> at_step_;  // as progress was told last
  std::atomic<uint32_t> at_round_ = 0;

  Epoch epoch_;
  uint32_t member_ = 0;  // this lane
  uint32_t stage_ = 0;
  Members members_;
  std::vector<uint32_t> owners_;  // by flat shard, members
  StageMap map_;
  Plan plan_;
  std::vector<LaneRound> rounds_;
  MostHeld most_held_;  // in them
  std::unique_ptr<Communicator> stage_group_;  // of the communicator that materialize was given
  bool materialized_ = false;
  bool weights_made_ = false;  // by the update of the newest version
  std::map<uint32_t, MicroBatchLoss> losses_;  // of this lane's micro-batches in the step under way
  std::optional<StepDone> finished_;
  std::optional<StepDone> unevaluated_;  // the newest, when its version was due and is not evaluated
};

}  // namespace holdfast::train
