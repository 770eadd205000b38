// Where weights come from and where their gradients go.
#pragma once

#include "base/ids.h"
#include "base/result.h"
#include "train/kernels/shapes.h"

namespace holdfast::train {

// Materialised compute weights of one lane, where the backend computes.
template <class B>
class Weights {
 public:
  virtual ~Weights() = default;
  // The whole flat vector of a dense group.
  virtual const typename B::Value* group(GroupIndex group) const = 0;
  // Of the experts of this layer that are hosted here, ascending.
  virtual kernels::ExpertTensors<const typename B::Value*> experts(LayerIndex layer) const = 0;
};

// begin() gives the group's accumulator (elements() long) into which, or over which, W functions write
// the gradient of one micro-batch; commit() ends that. The default mode hands out one accumulator a
// step and ignores commit; reproducible mode hands out scratch and adds it in fixed point at commit, so
// begin/commit enclose exactly one micro-batch's share.
template <class G>
struct GradientTarget {
  G* at;
  kernels::Into into;
};

template <class B>
class GradientSink {
 public:
  virtual ~GradientSink() = default;
  virtual GradientTarget<typename B::Gradient> begin(GroupIndex group) = 0;
  virtual Status commit(GroupIndex group) = 0;  // kGradientOverflow
  // Of the hosted experts of one layer; the next call for any layer ends this one's.
  virtual typename B::ExpertGradients experts(LayerIndex layer) = 0;
};

}  // namespace holdfast::train
