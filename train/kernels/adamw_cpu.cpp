#include <cmath>

#include "train/kernels/ops.h"

namespace holdfast::train::kernels {

namespace {

void update(const AdamwConstants& c, const AdamwRange<float>& range) {
  const AdamwTensors<float>& t = range.tensors;
  for (size_t i = 0; i < range.elements; ++i) {
    const float g = t.gradient[i] * c.gradient_scale;
    const float m = c.beta1 * t.m[i] + (1 - c.beta1) * g;
    const float v = c.beta2 * t.v[i] + (1 - c.beta2) * g * g;
    const float direction = m * c.m_correction / (std::sqrt(v * c.v_correction) + c.epsilon);
    t.next_master[i] = t.master[i] - c.rate * (direction + range.decay * t.master[i]);
    t.next_m[i] = m;
    t.next_v[i] = v;
  }
  if (t.weights != nullptr) std::copy_n(t.next_master, range.elements, t.weights);
}

}  // namespace

void adamw(const Cpu&, const AdamwConstants& constants,
           std::span<const AdamwRange<float>> ranges) {
  for (const AdamwRange<float>& range : ranges) update(constants, range);
}

void convert(const Cpu&, const float* from, size_t elements, float* to) {
  std::copy_n(from, elements, to);
}

void add(const Cpu&, const float* from, size_t elements, float* to) {
  for (size_t i = 0; i < elements; ++i) to[i] += from[i];
}

void sum_squares(const Cpu&, std::span<const FloatRange> ranges, double* sums) {
  for (const FloatRange& range : ranges) {
    double sum = 0;
    for (size_t i = 0; i < range.elements; ++i) sum += double{range.data[i]} * range.data[i];
    *sums++ = sum;
  }
}

}  // namespace holdfast::train::kernels
