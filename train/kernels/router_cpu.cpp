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
void route(RouterShape shape, T* probabilities_NE, T* logsumexp_N, uint32_t* choices_NK,
           T* gates_NK) {
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

template <class T>
RouterLosses router_losses(RouterShape shape, const T* probabilities_NE, const T* logsumexp_N,
                           std::span<const uint32_t> counts_E) {
  CHECK(counts_E.size() == shape.experts);
  RouterLosses losses;
  if (shape.tokens == 0) return losses;
  std::vector<double> probability_E(shape.experts);
  for (size_t n = 0; n < shape.tokens; ++n) {
    for (size_t e = 0; e < shape.experts; ++e)
      probability_E[e] += static_cast<double>(probabilities_NE[n * shape.experts + e]);
    losses.z += static_cast<double>(logsumexp_N[n]) * static_cast<double>(logsumexp_N[n]);
  }
  const double tokens = static_cast<double>(shape.tokens);
  const double choices = tokens * static_cast<double>(shape.top_k);
  for (size_t e = 0; e < shape.experts; ++e)
    losses.load_balance += counts_E[e] / choices * (probability_E[e] / tokens);
  losses.load_balance *= static_cast<double>(shape.experts);
  losses.z /= tokens;
  return losses;
}

template <class T>
void router_input_gradient(RouterShape shape, const T* probabilities_NE, const T* logsumexp_N,
                           const uint32_t* choices_NK, const T* gates_NK, const T* dgates_NK,
                           std::span<const uint32_t> counts_E, RouterLosses scale, T* dlogits_NE) {
  CHECK(counts_E.size() == shape.experts);
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

#define INSTANTIATE(T)                                                                     \
  template void route<T>(RouterShape, T*, T*, uint32_t*, T*);                              \
  template RouterLosses router_losses<T>(RouterShape, const T*, const T*,                  \
                                         std::span<const uint32_t>);                       \
  template void router_input_gradient<T>(RouterShape, const T*, const T*, const uint32_t*, \
                                         const T*, const T*, std::span<const uint32_t>,    \
                                         RouterLosses, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train::kernels
