#include "train/kernels/experts.h"
#include "train/kernels/gemm.h"

namespace holdfast::train::kernels {
namespace {

struct Linears {
  LinearShape gate_up, down;
};
Linears linears(ExpertShape shape, size_t rows) {
  return {{rows, shape.width, 2 * shape.expert_width}, {rows, shape.expert_width, shape.width}};
}
size_t gate_up_elements(ExpertShape shape) { return 2 * shape.expert_width * shape.width; }

}  // namespace

template <class T>
void experts(const Cpu& cpu, ExpertShape shape, ExpertRowsCpu rows,
             ExpertTensors<const T*> weights, const T* x_RD, T* gate_up_R2F, T* hidden_RF,
             T* y_RD) {
  const auto [d, f] = shape;
  for (const ExpertRows& product : rows.products) {
    const Linears shapes = linears(shape, product.rows);
    const T* w = weights.base + product.hosted * weights.stride;
    T* gate_up = gate_up_R2F + product.begin * 2 * f;
    T* hidden = hidden_RF + product.begin * f;
    linear<T>(cpu, shapes.gate_up, x_RD + product.begin * d, w, gate_up);
    swiglu<T>(cpu, product.rows, f, gate_up, hidden);
    linear<T>(cpu, shapes.down, hidden, w + gate_up_elements(shape), y_RD + product.begin * d);
  }
}

template <class T>
void experts_input_gradient(const Cpu& cpu, ExpertShape shape, ExpertRowsCpu rows,
                            ExpertTensors<const T*> weights, const T* dy_RD, T* gate_up_R2F,
                            T* scratch_RF, T* dx_RD) {
  const auto [d, f] = shape;
  for (const ExpertRows& product : rows.products) {
    const Linears shapes = linears(shape, product.rows);
    const T* w = weights.base + product.hosted * weights.stride;
    T* gate_up = gate_up_R2F + product.begin * 2 * f;
    T* dhidden = scratch_RF + product.begin * f;
    linear_input_gradient<T>(cpu, shapes.down, dy_RD + product.begin * d,
                             w + gate_up_elements(shape), nullptr, dhidden);
    swiglu_input_gradient<T>(cpu, product.rows, f, dhidden, gate_up);
    linear_input_gradient<T>(cpu, shapes.gate_up, gate_up, w, nullptr,
                             dx_RD + product.begin * d);
  }
}

template <class T>
Status experts_weight_gradient(const Cpu& cpu, ExpertShape shape, ExpertRowsCpu rows,
                               const T* x_RD, const T* dgate_up_R2F, const T* dy_RD,
                               const T* hidden_RF, ExpertGradients<T>& gradients) {
  const auto [d, f] = shape;
  for (const ExpertRows& product : rows.products) {
    const Linears shapes = linears(shape, product.rows);
    const auto target = gradients.begin(product.hosted);
    linear_weight_gradient<T>(cpu, shapes.gate_up, dgate_up_R2F + product.begin * 2 * f,
                              x_RD + product.begin * d, target.into, target.at);
    linear_weight_gradient<T>(cpu, shapes.down, dy_RD + product.begin * d,
                              hidden_RF + product.begin * f, target.into,
                              target.at + gate_up_elements(shape));
    RETURN_IF_ERROR(gradients.commit(product.hosted));
  }
  return {};
}

#define INSTANTIATE(T)                                                                           \
  template void experts<T>(const Cpu&, ExpertShape, ExpertRowsCpu, ExpertTensors<const T*>,      \
                           const T*, T*, T*, T*);                                                \
  template void experts_input_gradient<T>(const Cpu&, ExpertShape, ExpertRowsCpu,                \
                                          ExpertTensors<const T*>, const T*, T*, T*, T*);        \
  template Status experts_weight_gradient<T>(const Cpu&, ExpertShape, ExpertRowsCpu, const T*,   \
                                             const T*, const T*, const T*, ExpertGradients<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train::kernels
