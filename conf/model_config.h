// The shape of a model. A plain struct: parsed and validated once, immutable afterwards.
#pragma once

#include <boost/describe.hpp>
#include <cstdint>

#include "base/result.h"

namespace holdfast::conf {

// Mixtral-style decoder: embedding, L blocks of (RMSNorm, grouped-query attention with rotary
// positions, RMSNorm, router, SwiGLU experts), RMSNorm, untied output head.
struct ModelConfig {
  uint32_t vocabulary = 256;  // 256: bytes
  uint32_t layers = 4;
  uint32_t width = 128;          // d_model
  uint32_t heads = 4;            // query heads; width % heads == 0, head width even
  uint32_t kv_heads = 2;         // heads % kv_heads == 0
  uint32_t experts = 8;          // E
  uint32_t top_k = 2;            // gates renormalised when > 1
  uint32_t expert_width = 256;   // hidden width of one expert
  uint32_t context = 128;        // T, tokens of a sequence
  double rope_theta = 10000.0;
  double norm_epsilon = 1e-5;
  double load_balance_weight = 1e-2;
  double z_loss_weight = 1e-3;

  bool operator==(const ModelConfig&) const = default;
};
BOOST_DESCRIBE_STRUCT(ModelConfig, (),
                      (vocabulary, layers, width, heads, kv_heads, experts, top_k, expert_width,
                       context, rope_theta, norm_epsilon, load_balance_weight, z_loss_weight))

// kModelShape with both numbers when one does not divide the other, kConfigValue for ranges.
Status validate(const ModelConfig& model);

}  // namespace holdfast::conf
