#include <cmath>

#include "train/kernels/ops.h"

namespace holdfast::train::kernels {

void adamw(const Cpu&, size_t elements, const AdamwConstants& c, const AdamwTensors<float>& t) {
  for (size_t i = 0; i < elements; ++i) {
    const float g = t.gradient[i] * c.gradient_scale;
    const float m = c.beta1 * t.m[i] + (1 - c.beta1) * g;
    const float v = c.beta2 * t.v[i] + (1 - c.beta2) * g * g;
    const float direction = m * c.m_correction / (std::sqrt(v * c.v_correction) + c.epsilon);
    t.next_master[i] = t.master[i] - c.rate * (direction + c.decay * t.master[i]);
    t.next_m[i] = m;
    t.next_v[i] = v;
  }
  if (t.weights != nullptr) std::copy_n(t.next_master, elements, t.weights);
}

void convert(const Cpu&, const float* from, size_t elements, float* to) {
  std::copy_n(from, elements, to);
}

void add(const Cpu&, const float* from, size_t elements, float* to) {
  for (size_t i = 0; i < elements; ++i) to[i] += from[i];
}

void sum_squares(const Cpu&, const float* from, size_t elements, double* sum) {
  *sum = 0;
  for (size_t i = 0; i < elements; ++i) *sum += double{from[i]} * from[i];
}

}  // namespace holdfast::train::kernels
