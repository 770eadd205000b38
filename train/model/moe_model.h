// The model on one lane of a stage group (S = 1: all layers). Forward (F), input gradient (I) and
// weight gradient (W) are separate, section 5 of DESIGN.md. Every call of forward and input_gradient
// is made by all lanes of the group together, since tokens travel to the experts by all-to-all; a lane
// without a micro-batch passes nullptr and runs its slots' share.
//
// Every term of the loss is a function of one micro-batch alone. In reproducible mode what a
// micro-batch sends to one expert is processed whole by one replica, so that every product has the
// same shape wherever it runs, and weight gradients are committed per micro-batch.
//
// T is float in training; double exists for finite-difference checks.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "conf/model_config.h"
#include "train/comm/communicator.h"
#include "train/data/batches.h"
#include "train/model/parameter_layout.h"
#include "train/placement/placement.h"

namespace holdfast::train {

// Materialised compute weights: the whole flat vector of a group, or nullptr for experts not hosted.
template <class T>
class Weights {
 public:
  virtual ~Weights() = default;
  virtual const T* group(GroupIndex group) const = 0;
};

// Where weight gradients go. begin() gives the group's accumulator (elements() long) into which a W
// function adds the gradient of one micro-batch; commit() ends that addition. The default mode hands
// out one fp32 accumulator and ignores commit; reproducible mode hands out zeroed scratch and adds it
// in fixed point at commit, so begin/commit enclose exactly one micro-batch's share.
template <class T>
class GradientSink {
 public:
  virtual ~GradientSink() = default;
  virtual T* begin(GroupIndex group) = 0;
  virtual Status commit(GroupIndex group) = 0;  // kGradientOverflow
};

struct ModelContext {
  Communicator& comm;
  const Placement& placement;
  bool reproducible = false;
  // Loss and gradients of a micro-batch are scaled by this: 1 / (micro-batches of a step).
  double loss_scale = 1.0;
};

// Sums over one micro-batch, unscaled.
struct MicroBatchLoss {
  double cross_entropy = 0;  // mean over its tokens
  double load_balance = 0;   // weighted, summed over layers
  double z_loss = 0;         // weighted, summed over layers
  std::vector<uint64_t> popularity;  // [layer * E + expert]: token choices
  double total() const { return cross_entropy + load_balance + z_loss; }
};

// What F keeps for I and W. Lives on the lane that ran F; expert inputs on the slots' hosts.
template <class T>
class Stash {
 public:
  virtual ~Stash() = default;
  virtual const MicroBatchLoss& loss() const = 0;  // zeros on a lane without a micro-batch
};

template <class T>
class MoeModel {
 public:
  explicit MoeModel(const conf::ModelConfig& model);
  ~MoeModel();

  // F of every layer and the loss. Errors: the communicator's.
  Result<std::unique_ptr<Stash<T>>> forward(const MicroBatch* batch, const Weights<T>& weights,
                                            const ModelContext& context);
  // Loss only, nothing kept: held-out evaluation.
  Result<MicroBatchLoss> evaluate(const MicroBatch* batch, const Weights<T>& weights,
                                  const ModelContext& context);
  // I of every layer, from the loss back; keeps what W needs in the stash.
  Status input_gradient(Stash<T>& stash, const Weights<T>& weights, const ModelContext& context);
  // W of everything dense (embedding, attention, norms, router, head): no communication.
  Status weight_gradient(Stash<T>& stash, GradientSink<T>& gradients);
  // W of the experts hosted here, for what the I round brought: no communication.
  Status expert_weight_gradient(Stash<T>& stash, GradientSink<T>& gradients);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace holdfast::train
