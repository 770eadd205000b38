// The experts of one layer that this lane hosts, over the rows that the group sent here. One
// product per ExpertRows; what F and I keep lies here, on the host. Shapes as in
// train/kernels/ops.h.
#pragma once

#include <functional>
#include <span>

#include "train/model/dispatch.h"
#include "train/model/moe_model.h"
#include "train/model/tensors.h"
#include "train/tensor/buffer.h"

namespace holdfast::train {

template <class T>
struct ExpertStash {
  // F
  Buffer<T> x_RD;  // in expert order, filled by the caller
  Buffer<T> gate_RF, up_RF, hidden_RF;
  // I: the caller fills dy; the gradients of gate and up take their places.
  Buffer<T> dy_RD;
};

struct ExpertSizes {
  size_t width;         // D
  size_t expert_width;  // F
};

// The group of an expert of this layer.
using ExpertGroup = std::function<const GroupSpec&(ExpertIndex)>;

template <class T>
void experts_forward(ExpertSizes sizes, std::span<const ExpertRows> products,
                     const ExpertGroup& group, const Weights<T>& weights, ExpertStash<T>& stash,
                     T* y_RD);
// `scratch` is for one [R, F].
template <class T>
void experts_input_gradient(ExpertSizes sizes, std::span<const ExpertRows> products,
                            const ExpertGroup& group, const Weights<T>& weights,
                            ExpertStash<T>& stash, Buffer<T>& scratch, T* dx_RD);
// begin() and commit() enclose one product.
template <class T>
Status experts_weight_gradient(ExpertSizes sizes, std::span<const ExpertRows> products,
                               const ExpertGroup& group, const ExpertStash<T>& stash,
                               GradientSink<T>& gradients);

}  // namespace holdfast::train
