// One stage of the model on one lane of its stage group (S = 1: all of it). Forward (F), input gradient
// (I) and weight gradient (W) are separate, section 5 of DESIGN.md. Every call of forward and
// input_gradient is made by all lanes of the group together, since tokens travel to the experts by
// all-to-all; a lane without a micro-batch passes nullptr and runs its slots' share.
//
// Every term of the loss is a function of one micro-batch alone. In reproducible mode what a
// micro-batch sends to one expert is processed whole by one replica, so that every product has the
// same shape wherever it runs, and weight gradients are committed per micro-batch.
//
// Layers, groups, placement and capacity are numbered as in the whole model.
//
// B is a backend (train/kernels/backend.h). Calls only enqueue on its device.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "conf/model_config.h"
#include "train/comm/communicator.h"
#include "train/comm/payload.h"
#include "train/data/batches.h"
#include "train/model/gradient_sink.h"
#include "train/model/parameter_layout.h"
#include "train/model/stage_layers.h"
#include "train/placement/capacity.h"
#include "train/placement/placement.h"

namespace holdfast::train {

struct ModelContext {
  Communicator& comm;
  PayloadExchange& payload;
  const Placement& placement;
  bool reproducible = false;
  // Loss and gradients of a micro-batch are scaled by this: 1 / (micro-batches of a step).
  double loss_scale = 1.0;
  // Where not null, choices beyond it are dropped; every micro-batch has its number of tokens.
  const Capacity* capacity = nullptr;
  // With a capacity, between lanes: rows travel in rooms of fixed size, so that no host has to know how
  // many there are. For accelerators; not in reproducible mode.
  bool rooms = false;
};

// Of one micro-batch at one stage, unscaled.
struct MicroBatchLoss {
  double cross_entropy = 0;  // mean over its tokens; 0 where the stage has no head
  double load_balance = 0;   // weighted, summed over the stage's layers
  double z_loss = 0;         // weighted, summed over the stage's layers
  std::vector<kernels::RouterLosses> layers;  // weighted, of each of the stage's layers
  std::vector<uint64_t> popularity;  // [layer * E + expert]: token choices, dropped ones too
  double total() const { return cross_entropy + load_balance + z_loss; }
};

// What F keeps of a lane's micro-batch for I and W, on that lane. Must live until the device has finished
// what was enqueued for it.
template <class B>
class Stash {
 public:
  virtual ~Stash() = default;
  // Zeros on a lane without a micro-batch. Once the device has finished F.
  virtual MicroBatchLoss loss() const = 0;
  // [N, D] where the backend computes: what the stage after goes on with, as long as the stash lives;
  // empty where the stage has the head.
  virtual std::span<const typename B::Value> output() const = 0;
  // The same backwards: the gradient of what the stage was given, until the model's next I; empty where the
  // stage embeds.
  virtual std::span<const typename B::Value> handed_back() const = 0;
};

// What a round of F brought to the experts hosted here, from all lanes; and I after it. Lives as a stash.
template <class B>
class Hosted {
 public:
  virtual ~Hosted() = default;
};

template <class B>
struct ForwardRound {
  std::unique_ptr<Stash<B>> stash;
  std::unique_ptr<Hosted<B>> hosted;
};

template <class B>
class MoeModel {
 public:
  using V = typename B::Value;
  // `device` outlives the model.
  MoeModel(typename B::Device& device, const conf::ModelConfig& model);  // all of it
  MoeModel(typename B::Device& device, const conf::ModelConfig& model, const StageLayers& stage);
  ~MoeModel();
  const StageLayers& stage() const;

  // F of every layer and the loss. x_ND: the input, where the backend computes, where the stage does not
  // embed; the first that is enqueued is to copy it. Of the batch only the sizes matter then, and targets only where the stage has the
  // head. Errors: the communicator's, the device's.
  Result<ForwardRound<B>> forward(const MicroBatch* batch, const Weights<B>& weights,
                                  const ModelContext& context, std::span<const V> x_ND = {});
  // Held-out evaluation: only loss and output of the stash are there. Waits for the device.
  Result<std::unique_ptr<Stash<B>>> evaluate(const MicroBatch* batch, const Weights<B>& weights,
                                             const ModelContext& context,
                                             std::span<const V> x_ND = {});

  // For an I round whose micro-batches ran in several F rounds, or in one with others beside them: what it
  // needs at the hosts. from[lane]: of the F round of that lane's micro-batch; nullptr: it has none.
  Result<std::unique_ptr<Hosted<B>>> assemble(std::span<const Hosted<B>* const> from,
                                              const ModelContext& context);

  // I of every layer, from the loss or from dy_ND (as x_ND) back; keeps what W needs in both. stash:
  // nullptr on a lane without a micro-batch. hosted: of an F round with the very same micro-batches, or
  // assembled.
  Status input_gradient(Stash<B>* stash, Hosted<B>& hosted, const Weights<B>& weights,
                        const ModelContext& context, std::span<const V> dy_ND = {});
  // W of everything dense (embedding, attention, norms, router, head): no communication.
  Status weight_gradient(Stash<B>& stash, GradientSink<B>& gradients);
  // W of the experts hosted here, for what the I round brought: no communication.
  Status expert_weight_gradient(Hosted<B>& hosted, GradientSink<B>& gradients);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace holdfast::train
