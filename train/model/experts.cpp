#include "train/model/experts.h"

#include "train/kernels/gemm.h"
#include "train/kernels/ops.h"

namespace holdfast::train {

using kernels::Into;
using kernels::LinearShape;

template <class T>
void experts_forward(ExpertSizes sizes, std::span<const ExpertRows> products,
                     const ExpertGroup& group, const Weights<T>& weights, ExpertStash<T>& stash,
                     T* y_RD) {
  const size_t d = sizes.width;
  const size_t f = sizes.expert_width;
  const size_t rows = stash.x_RD.size() / d;
  for (Buffer<T>* buffer : {&stash.gate_RF, &stash.up_RF, &stash.hidden_RF})
    buffer->resize(rows * f);
  for (const ExpertRows& product : products) {
    const GroupSpec& spec = group(product.expert);
    const auto w = expert_tensors(spec, weights.group(spec.index));
    const T* x = stash.x_RD.data() + product.begin * d;
    T* gate = stash.gate_RF.data() + product.begin * f;
    T* up = stash.up_RF.data() + product.begin * f;
    T* hidden = stash.hidden_RF.data() + product.begin * f;
    kernels::linear(LinearShape{product.rows, d, f}, x, w.gate, Into::kOverwrite, gate);
    kernels::linear(LinearShape{product.rows, d, f}, x, w.up, Into::kOverwrite, up);
    kernels::swiglu<T>(product.rows * f, gate, up, hidden);
    kernels::linear<T>(LinearShape{product.rows, f, d}, hidden, w.down, Into::kOverwrite,
                       y_RD + product.begin * d);
  }
}

template <class T>
void experts_input_gradient(ExpertSizes sizes, std::span<const ExpertRows> products,
                            const ExpertGroup& group, const Weights<T>& weights,
                            ExpertStash<T>& stash, Buffer<T>& scratch, T* dx_RD) {
  const size_t d = sizes.width;
  const size_t f = sizes.expert_width;
  scratch.resize(stash.gate_RF.size());
  for (const ExpertRows& product : products) {
    const GroupSpec& spec = group(product.expert);
    const auto w = expert_tensors(spec, weights.group(spec.index));
    T* gate = stash.gate_RF.data() + product.begin * f;
    T* up = stash.up_RF.data() + product.begin * f;
    T* dhidden = scratch.data() + product.begin * f;
    T* dx = dx_RD + product.begin * d;
    kernels::linear_input_gradient<T>(LinearShape{product.rows, f, d},
                                      stash.dy_RD.data() + product.begin * d, w.down,
                                      Into::kOverwrite, dhidden);
    kernels::swiglu_input_gradient<T>(product.rows * f, dhidden, gate, up);
    kernels::linear_input_gradient<T>(LinearShape{product.rows, d, f}, gate, w.gate,
                                      Into::kOverwrite, dx);
    kernels::linear_input_gradient<T>(LinearShape{product.rows, d, f}, up, w.up, Into::kAdd, dx);
  }
}

template <class T>
Status experts_weight_gradient(ExpertSizes sizes, std::span<const ExpertRows> products,
                               const ExpertGroup& group, const ExpertStash<T>& stash,
                               GradientSink<T>& gradients) {
  const size_t d = sizes.width;
  const size_t f = sizes.expert_width;
  for (const ExpertRows& product : products) {
    const GroupSpec& spec = group(product.expert);
    const auto dw = expert_tensors(spec, gradients.begin(spec.index));
    const T* x = stash.x_RD.data() + product.begin * d;
    kernels::linear_weight_gradient<T>(LinearShape{product.rows, d, f},
                                       stash.gate_RF.data() + product.begin * f, x, dw.gate);
    kernels::linear_weight_gradient<T>(LinearShape{product.rows, d, f},
                                       stash.up_RF.data() + product.begin * f, x, dw.up);
    kernels::linear_weight_gradient<T>(LinearShape{product.rows, f, d},
                                       stash.dy_RD.data() + product.begin * d,
                                       stash.hidden_RF.data() + product.begin * f, dw.down);
    RETURN_IF_ERROR(gradients.commit(spec.index));
  }
  return {};
}

#define INSTANTIATE(T)                                                                            \
  template void experts_forward<T>(ExpertSizes, std::span<const ExpertRows>, const ExpertGroup&,  \
                                   const Weights<T>&, ExpertStash<T>&, T*);                       \
  template void experts_input_gradient<T>(ExpertSizes, std::span<const ExpertRows>,               \
                                          const ExpertGroup&, const Weights<T>&, ExpertStash<T>&, \
                                          Buffer<T>&, T*);                                        \
  template Status experts_weight_gradient<T>(ExpertSizes, std::span<const ExpertRows>,            \
                                             const ExpertGroup&, const ExpertStash<T>&,           \
                                             GradientSink<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train
