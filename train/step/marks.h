// Progress while the model computes: it asks for the weights of a group, or for the place of its
// gradients, right before it works with them, and each time the counter moves.
#pragma once

#include <functional>
#include <utility>

#include "train/model/moe_model.h"

namespace holdfast::train {

using MarkFn = std::function<void()>;  // any thread

class MarkedWeights final : public Weights<float> {
 public:
  MarkedWeights(const Weights<float>& weights, MarkFn mark)
      : weights_(weights), mark_(std::move(mark)) {}
  const float* group(GroupIndex group) const override {
    mark_();
    return weights_.group(group);
  }

 private:
  const Weights<float>& weights_;
  const MarkFn mark_;
};

class MarkedGradients final : public GradientSink<float> {
 public:
  MarkedGradients(GradientSink<float>& gradients, MarkFn mark)
      : gradients_(gradients), mark_(std::move(mark)) {}
  float* begin(GroupIndex group) override {
    mark_();
    return gradients_.begin(group);
  }
  Status commit(GroupIndex group) override {
    mark_();
    return gradients_.commit(group);
  }

 private:
  GradientSink<float>& gradients_;
  const MarkFn mark_;
};

}  // namespace holdfast::train
