#include <vector>

#include "base/check.h"
#include "train/kernels/ops.h"
#include "train/kernels/row_math.h"

namespace holdfast::train::kernels {
namespace {

// The most probable expert that is not among the `chosen`; the lower id among equals.
template <class T>
uint32_t best_besides(const T* p_E, size_t experts, std::span<const uint32_t> chosen) {
  uint32_t best = 0;
  bool found = false;
  for (uint32_t e = 0; e < experts; ++e) {
    if (std::find(chosen.begin(), chosen.end(), e) != chosen.end()) continue;
    if (!found || p_E[e] > p_E[best]) best = e;
    found = true;
  }
  return best;
}

// Through the renormalisation gate_k = p_k / sum_j p_j.
template <class T>
void add_gate_gradients(size_t top_k, const T* p_E, const uint32_t* choices_K, const T* gates_K,
                        const T* dgates_K, T* dp_E) {
  if (top_k == 1) {
    dp_E[choices_K[0]] += dgates_K[0];
    return;
  }
  T sum{};
  T along{};
  for (size_t k = 0; k < top_k; ++k) {
    sum += p_E[choices_K[k]];
    along += dgates_K[k] * gates_K[k];
  }
  for (size_t k = 0; k < top_k; ++k) dp_E[choices_K[k]] += (dgates_K[k] - along) / sum;
}

}  // namespace

template <class T>
void route(const Cpu&, RouterShape shape, T* probabilities_NE, T* logsumexp_N,
           uint32_t* choices_NK, T* gates_NK) {
  CHECK(shape.top_k >= 1 && shape.top_k <= shape.experts);
  for (size_t n = 0; n < shape.tokens; ++n) {
    T* p = probabilities_NE + n * shape.experts;
    uint32_t* choices = choices_NK + n * shape.top_k;
    T* gates = gates_NK + n * shape.top_k;
    logsumexp_N[n] = softmax_row(shape.experts, p);
    T sum{};
    for (size_t k = 0; k < shape.top_k; ++k) {
      choices[k] = best_besides(p, shape.experts, {choices, k});
      gates[k] = p[choices[k]];
      sum += gates[k];
    }
    if (shape.top_k > 1)
      for (size_t k = 0; k < shape.top_k; ++k) gates[k] /= sum;
  }
}

void count_choices(const Cpu&, RouterShape shape, const uint32_t* choices_NK, uint32_t* counts_E,
                   uint32_t* rank_NK) {
  std::fill_n(counts_E, shape.experts, 0U);
  for (size_t i = 0; i < shape.choices(); ++i) rank_NK[i] = counts_E[choices_NK[i]]++;
}

template <class T>
void router_losses(const Cpu&, RouterShape shape, const T* probabilities_NE, const T* logsumexp_N,
                   const uint32_t* counts_E, RouterLosses weights, double* losses) {
  if (shape.tokens == 0) return;
  RouterLosses sum;
  std::vector<double> probability_E(shape.experts);
  for (size_t n = 0; n < shape.tokens; ++n) {
    for (size_t e = 0; e < shape.experts; ++e)
      probability_E[e] += static_cast<double>(probabilities_NE[n * shape.experts + e]);
    sum.z += static_cast<double>(logsumexp_N[n]) * static_cast<double>(logsumexp_N[n]);
  }
  const double tokens = static_cast<double>(shape.tokens);
  const double choices = static_cast<double>(shape.choices());
  for (size_t e = 0; e < shape.experts; ++e)
    sum.load_balance += counts_E[e] / choices * (probability_E[e] / tokens);
  losses[0] += weights.load_balance * (sum.load_balance * static_cast<double>(shape.experts));
  losses[1] += weights.z * (sum.z / tokens);
}

template <class T>
void router_input_gradient(const Cpu&, RouterShape shape, const T* probabilities_NE,
                           const T* logsumexp_N, const uint32_t* choices_NK, const T* gates_NK,
                           const T* dgates_NK, const uint32_t* counts_E, RouterLosses scale,
                           T* dlogits_NE) {
  if (shape.tokens == 0) return;
  const double tokens = static_cast<double>(shape.tokens);
  std::vector<T> dbalance_E(shape.experts);  // the same for every token
  for (size_t e = 0; e < shape.experts; ++e) {
    const double share = counts_E[e] / (tokens * static_cast<double>(shape.top_k));
    dbalance_E[e] =
        static_cast<T>(scale.load_balance * static_cast<double>(shape.experts) * share / tokens);
  }
  const T dz = static_cast<T>(2.0 * scale.z / tokens);
  for (size_t n = 0; n < shape.tokens; ++n) {
    const T* p = probabilities_NE + n * shape.experts;
    const size_t k = n * shape.top_k;
    T* d = dlogits_NE + n * shape.experts;  // first of the probabilities, then of the logits
    std::copy(dbalance_E.begin(), dbalance_E.end(), d);
    add_gate_gradients(shape.top_k, p, choices_NK + k, gates_NK + k, dgates_NK + k, d);
    const T mean = dot(shape.experts, p, d);
    for (size_t e = 0; e < shape.experts; ++e) d[e] = p[e] * (d[e] - mean + dz * logsumexp_N[n]);
  }
}

#define INSTANTIATE(T)                                                                        \
  template void route<T>(const Cpu&, RouterShape, T*, T*, uint32_t*, T*);                     \
  template void router_losses<T>(const Cpu&, RouterShape, const T*, const T*, const uint32_t*, \
                                 RouterLosses, double*);                                      \
  template void router_input_gradient<T>(const Cpu&, RouterShape, const T*, const T*,         \
                                         const uint32_t*, const T*, const T*, const uint32_t*, \
                                         RouterLosses, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train::kernels
