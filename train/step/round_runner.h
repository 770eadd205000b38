// Runs one lane's rounds of one step: F, I and W of its micro-batches, its share of what other lanes
// send to the experts hosted here, and the hand-overs between stages, through host memory.
//
// What F and I keep is freed after the W that needs it, so a lane holds no more than its plan says.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

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
    ViewCommunicator& view;
    std::function<Result<MicroBatch>(MicroBatchIndex)> batch;  // read by the first and last stage
    MicroBatch sizes;  // of any micro-batch, without tokens
    size_t elements;   // of one that is handed over
  };
  explicit RoundRunner(Parts parts) : parts_(std::move(parts)) {}

  // In the order of the plan; all lanes of the stage group together. Errors: the communicator's, the
  // device's, the data's, kGradientOverflow.
  Status run(const LaneRound& round);

  // Of the micro-batches whose W is done.
  const std::map<uint32_t, MicroBatchLoss>& losses() const { return losses_; }
  uint64_t sent_bytes() const { return sent_bytes_; }  // to neighbouring stages
  // Micro-batches of this lane whose W is to come, and rounds of which rows for experts are kept.
  size_t held() const { return stashes_.size(); }
  size_t held_rounds() const;

 private:
  using V = typename B::Value;
  // What an F round left at the hosts, until all its micro-batches have had their I.
  struct KeptForward {
    std::unique_ptr<Hosted<B>> hosted;
    uint32_t micro_batches = 0;
  };
  Status forward(const LaneRound& round);
  Status input_gradient(const LaneRound& round);
  Result<std::unique_ptr<Hosted<B>>> hosted_for(const LaneRound& round);
  void release_forwards(const LaneRound& round);
  Result<MicroBatch> read(MicroBatchIndex micro_batch) const;
  Status receive(const LaneRound& round);
  Status send(const LaneRound& round, std::span<const V> values);

  const Parts parts_;
  std::map<uint32_t, std::unique_ptr<Stash<B>>> stashes_;    // by micro-batch
  std::vector<KeptForward> forwards_;                        // by number of F round
  std::vector<std::unique_ptr<Hosted<B>>> gradient_rounds_;  // by number of I or B round
  std::map<uint32_t, MicroBatchLoss> losses_;                // by micro-batch
  typename B::template HostRoom<V> received_;
  uint64_t sent_bytes_ = 0;
};

}  // namespace holdfast::train
