#include "conf/model_config.h"

#include <fmt/format.h>

#include "conf/range.h"

namespace holdfast::conf {
namespace {

Status divides(const char* divisor, uint32_t by, const char* dividend, uint32_t whole) {
  if (whole % by == 0) return {};
  return fail(ErrorCode::kModelShape, fmt::format("model.{} = {} does not divide model.{} = {}",
                                                  divisor, by, dividend, whole));
}

}  // namespace

Status validate(const ModelConfig& m) {
  RETURN_IF_ERROR(in_range("model.vocabulary", m.vocabulary, 2, 1 << 24));
  RETURN_IF_ERROR(in_range("model.layers", m.layers, 1, 1024));
  RETURN_IF_ERROR(in_range("model.width", m.width, 2, 1 << 16));
  RETURN_IF_ERROR(in_range("model.heads", m.heads, 1, 1024));
  RETURN_IF_ERROR(in_range("model.kv_heads", m.kv_heads, 1, 1024));
  RETURN_IF_ERROR(in_range("model.experts", m.experts, 1, 4096));
  RETURN_IF_ERROR(in_range("model.top_k", m.top_k, 1, 64));
  RETURN_IF_ERROR(in_range("model.expert_width", m.expert_width, 1, 1 << 20));
  RETURN_IF_ERROR(in_range("model.context", m.context, 1, 1 << 20));
  RETURN_IF_ERROR(in_range("model.rope_theta", m.rope_theta, 1.0, 1e9));
  RETURN_IF_ERROR(in_range("model.norm_epsilon", m.norm_epsilon, 1e-12, 1e-1));
  RETURN_IF_ERROR(in_range("model.load_balance_weight", m.load_balance_weight, 0.0, 1e3));
  RETURN_IF_ERROR(in_range("model.z_loss_weight", m.z_loss_weight, 0.0, 1e3));
  RETURN_IF_ERROR(divides("heads", m.heads, "width", m.width));
  RETURN_IF_ERROR(divides("kv_heads", m.kv_heads, "heads", m.heads));
  if (m.width / m.heads % 2 != 0)
    return fail(ErrorCode::kModelShape,
                fmt::format("model.width / model.heads = {} / {} = {} must be even: rotary positions "
                            "turn pairs",
                            m.width, m.heads, m.width / m.heads));
  if (m.top_k > m.experts)
    return fail(ErrorCode::kModelShape,
                fmt::format("model.top_k = {} is more than model.experts = {}", m.top_k, m.experts));
  return {};
}

}  // namespace holdfast::conf
