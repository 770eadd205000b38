// Progress while the model computes: it asks for the weights of a group, or for the place of its
// gradients, right before it works with them, and each time the counter moves.
#pragma once

#include <functional>
#include <utility>

#include "train/model/gradient_sink.h"

namespace holdfast::train {

using MarkFn = std::function<void()>;  // any thread

template <class B>
class MarkedWeights final : public Weights<B> {
 public:
  MarkedWeights(const Weights<B>& weights, MarkFn mark)
      : weights_(weights), mark_(std::move(mark)) {}
  const typename B::Value* group(GroupIndex group) const override {
    mark_();
    return weights_.group(group);
  }
  kernels::ExpertTensors<const typename B::Value*> experts(LayerIndex layer) const override {
    mark_();
    return weights_.experts(layer);
  }

 private:
  const Weights<B>& weights_;
  const MarkFn mark_;
};

template <class B>
class MarkedGradients final : public GradientSink<B> {
 public:
  MarkedGradients(GradientSink<B>& gradients, MarkFn mark)
      : gradients_(gradients), mark_(std::move(mark)) {}
  GradientTarget<typename B::Gradient> begin(GroupIndex group) override {
    mark_();
    return gradients_.begin(group);
  }
  Status commit(GroupIndex group) override {
    mark_();
    return gradients_.commit(group);
  }
  typename B::ExpertGradients experts(LayerIndex layer) override {
    mark_();
    return gradients_.experts(layer);
  }

 private:
  GradientSink<B>& gradients_;
  const MarkFn mark_;
};

}  // namespace holdfast::train
