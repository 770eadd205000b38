// The model on one lane of a stage group (S = 1: all layers). Forward (F), input gradient (I) and
// weight gradient (W) are separate, section 5 of DESIGN.md. Every call of forward and input_gradient
// is made by all lanes of the group together, since tokens travel to the experts by all-to-all; a lane
// without a micro-batch passes nullptr and runs its slots' share.
//
// Every term of the loss is a function of one micro-batch alone. In reproducible mode what a
// micro-batch sends to one expert is processed whole by one replica, so that every product has the
// same shape wherever it runs, and weight gradients are committed per micro-batch.
//
// B is a backend (train/kernels/backend.h). Calls only enqueue on its device.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "conf/model_config.h"
#include "train/comm/communicator.h"
#include "train/comm/payload.h"
#include "train/data/batches.h"
#include "train/model/gradient_sink.h"
#include "train/model/parameter_layout.h"
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

// Sums over one micro-batch, unscaled.
struct MicroBatchLoss {
  double cross_entropy = 0;  // mean over its tokens
  double load_balance = 0;   // weighted, summed over layers
  double z_loss = 0;         // weighted, summed over layers
  std::vector<uint64_t> popularity;  // [layer * E + expert]: token choices, dropped ones too
  double total() const { return cross_entropy + load_balance + z_loss; }
};

// What F keeps for I and W. Lives on the lane that ran F; expert inputs on the slots' hosts. Must live
// until the device has finished what was enqueued for it.
template <class B>
class Stash {
 public:
  virtual ~Stash() = default;
  // Zeros on a lane without a micro-batch. Once the device has finished F.
  virtual MicroBatchLoss loss() const = 0;
};

template <class B>
class MoeModel {
 public:
  // `device` outlives the model.
  MoeModel(typename B::Device& device, const conf::ModelConfig& model);
  ~MoeModel();

  // F of every layer and the loss. Errors: the communicator's, the device's.
  Result<std::unique_ptr<Stash<B>>> forward(const MicroBatch* batch, const Weights<B>& weights,
                                            const ModelContext& context);
  // Loss only, nothing kept: held-out evaluation. Waits for the device.
  Result<MicroBatchLoss> evaluate(const MicroBatch* batch, const Weights<B>& weights,
                                  const ModelContext& context);
  // I of every layer, from the loss back; keeps what W needs in the stash.
  Status input_gradient(Stash<B>& stash, const Weights<B>& weights, const ModelContext& context);
  // W of everything dense (embedding, attention, norms, router, head): no communication.
  Status weight_gradient(Stash<B>& stash, GradientSink<B>& gradients);
  // W of the experts hosted here, for what the I round brought: no communication.
  Status expert_weight_gradient(Stash<B>& stash, GradientSink<B>& gradients);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace holdfast::train
