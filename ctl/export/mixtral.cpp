#include "ctl/export/mixtral.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <string>

#include "base/check.h"

namespace holdfast::ctl {
namespace {

using train::GroupKind;

// What Mixtral calls the tensors of a group, in the order of the group.
std::vector<std::string> tensor_names(const train::GroupSpec& group) {
  const std::string layer = fmt::format("model.layers.{}.", group.layer.value);
  const std::string moe = layer + "block_sparse_moe.";
  const std::string attention = layer + "self_attn.";
  const std::string expert = fmt::format("{}experts.{}.", moe, group.expert.value);
  switch (group.kind) {
    case GroupKind::kEmbedding:
      return {"model.embed_tokens.weight"};
    case GroupKind::kAttention:
      return {layer + "input_layernorm.weight", attention + "q_proj.weight",
              attention + "k_proj.weight", attention + "v_proj.weight",
              attention + "o_proj.weight"};
    case GroupKind::kRouter:
      return {layer + "post_attention_layernorm.weight", moe + "gate.weight"};
    case GroupKind::kExpert:  // gate, up, down
      return {expert + "w1.weight", expert + "w3.weight", expert + "w2.weight"};
    case GroupKind::kHead:
      return {"model.norm.weight", "lm_head.weight"};
  }
  CHECK(false, "group kind {}", static_cast<int>(group.kind));
}

const char* type_text(storage::TensorType type) {
  switch (type) {
    case storage::TensorType::kFloat32:
      return "float32";
    case storage::TensorType::kBfloat16:
      return "bfloat16";
  }
  CHECK(false, "tensor type {}", static_cast<int>(type));
}

}  // namespace

Result<std::vector<storage::TensorEntry>> mixtral_tensors(const train::ParameterLayout& layout,
                                                          storage::TensorType type) {
  if (layout.model().top_k == 1)
    return fail(ErrorCode::kModelShape,
                "Mixtral cannot express model.top_k = 1: it divides the gates by their sum, which "
                "makes the only one 1, where this model uses the expert's probability");
  std::vector<storage::TensorEntry> tensors;
  for (const train::GroupSpec& group : layout.groups()) {
    const std::vector<std::string> names = tensor_names(group);
    CHECK(names.size() == group.tensors.size(), "{}", group.name);
    for (size_t i = 0; i < names.size(); ++i) {
      const train::TensorSpec& tensor = group.tensors[i];
      std::vector<uint64_t> shape = {tensor.columns};
      if (tensor.decays) shape.insert(shape.begin(), tensor.rows);  // norms are vectors
      tensors.push_back({names[i], type, std::move(shape)});
    }
  }
  return tensors;
}

boost::json::object mixtral_config(const conf::ModelConfig& model, storage::TensorType type) {
  return {{"architectures", boost::json::array{"MixtralForCausalLM"}},
          {"model_type", "mixtral"},
          {"vocab_size", model.vocabulary},
          {"hidden_size", model.width},
          {"intermediate_size", model.expert_width},
          {"num_hidden_layers", model.layers},
          {"num_attention_heads", model.heads},
          {"num_key_value_heads", model.kv_heads},
          {"num_local_experts", model.experts},
          {"num_experts_per_tok", model.top_k},
          {"hidden_act", "silu"},
          {"max_position_embeddings", model.context},
          {"initializer_range", 0.02},
          {"rms_norm_eps", model.norm_epsilon},
          {"rope_theta", model.rope_theta},
          {"sliding_window", nullptr},
          {"attention_dropout", 0.0},
          {"router_aux_loss_coef", model.load_balance_weight},
          {"output_router_logits", false},
          {"tie_word_embeddings", false},
          {"use_cache", true},
          {"bos_token_id", nullptr},
          {"eos_token_id", nullptr},
          {"pad_token_id", nullptr},
          {"torch_dtype", type_text(type)}};
}

}  // namespace holdfast::ctl
