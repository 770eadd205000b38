// Runs one lane's rounds of one step: F, I and W of its micro-batches, its share of what other lanes
// send to the experts hosted here, and the hand-overs between stages.
//
// What F and I keep is freed after the W that needs it, so a lane holds no more than its plan says. An
// accelerator's lane that is alone in its group does not wait for the device after a W: what was kept is
// freed where the next F needs the room, and else at the end of the step.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "train/comm/hand_over.h"
#include "train/model/moe_model.h"
#include "train/step/lane_rounds.h"

namespace holdfast::train {

template <class B>
class RoundRunner {
 public:
  struct Parts {
    typename B::Device& device;
    MoeModel<B>& model;
    const Weights<B>& weights;
    GradientSink<B>& gradients;
    const ModelContext& context;  // of the stage group
    PayloadHandOver& hand_over;
    std::function<Result<MicroBatch>(MicroBatchIndex)> batch;  // read by the first and last stage
    MicroBatch sizes;  // of any micro-batch, without tokens
    size_t elements;   // of one that is handed over
    MostHeld most;     // in the rounds of the step
    // Returns once so many ms have passed since then. Called where an operation is to take longer than it
    // does; empty: nothing is.
    std::function<Status(double, std::chrono::steady_clock::time_point)> lengthen = {};
  };
  explicit RoundRunner(Parts parts) : parts_(std::move(parts)) {}

  // In the order of the plan; all lanes of the stage group together. Errors: the communicator's, the
  // device's, the data's, kGradientOverflow.
  Status run(const LaneRound& round);

  // After the last round: nothing is held, and what was handed over has left; where `staggered` only what was
  // handed over before this step, as neighbours may take the rest while this stage goes on.
  Status finish(bool staggered = false);

  // Of the micro-batches whose W is done; of all, after finish().
  const std::map<uint32_t, MicroBatchLoss>& losses() const { return losses_; }
  uint64_t sent_bytes() const { return sent_bytes_; }  // to neighbouring stages
  // Micro-batches of this lane whose W is to come, and rounds of which rows for experts are kept.
  size_t held() const { return stashes_.size() + retired_stashes(); }
  size_t held_rounds() const;

 private:
  using V = typename B::Value;
  // What an F round left at the hosts, until all its micro-batches have had their I.
  struct KeptForward {
    std::unique_ptr<Hosted<B>> hosted;
    uint32_t micro_batches = 0;
  };
  // What is needed until the device has come to a moment.
  struct Retired {
    typename B::Moment moment;
    std::optional<uint32_t> micro_batch;
    std::unique_ptr<Stash<B>> stash;
    std::vector<std::unique_ptr<Hosted<B>>> hosted;
  };
  using Clock = std::chrono::steady_clock;
  Status lengthen(double ms, Clock::time_point since) const;
  Status forward(const LaneRound& round);
  Status input_gradient(const LaneRound& round);
  Status hand_back(const LaneRound& round);
  Status weights(const LaneRound& round);
  Result<std::unique_ptr<Hosted<B>>> hosted_for(const LaneRound& round);
  void release_forwards(const LaneRound& round);
  Result<MicroBatch> read(MicroBatchIndex micro_batch) const;
  void retire(const LaneRound& round);
  Status free_oldest();
  Status make_room();
  size_t retired_stashes() const;
  Result<std::span<const V>> receive(const LaneRound& round);
  Status send(const LaneRound& round, std::span<const V> values);

  const Parts parts_;
  std::map<uint32_t, std::unique_ptr<Stash<B>>> stashes_;    // by micro-batch
  std::vector<KeptForward> forwards_;                        // by number of F round
  std::vector<std::unique_ptr<Hosted<B>>> gradient_rounds_;  // by number of I or B round
  std::map<uint32_t, MicroBatchLoss> losses_;                // by micro-batch
  std::deque<Retired> retired_;
  uint64_t sent_bytes_ = 0;
};

}  // namespace holdfast::train
