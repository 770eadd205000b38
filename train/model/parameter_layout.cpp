#include "train/model/parameter_layout.h"

#include <fmt/format.h>

#include <cmath>

#include "base/check.h"

namespace holdfast::train {
namespace {

TensorSpec matrix(std::string name, uint32_t rows, uint32_t columns, double stddev) {
  return {std::move(name), rows, columns, 0, true, stddev};
}
TensorSpec norm(uint32_t width) { return {"norm", 1, width, 0, false, 0.0}; }

GroupSpec make_group(GroupKind kind, std::string name, std::vector<TensorSpec> tensors) {
  GroupSpec group;
  group.kind = kind;
  group.name = std::move(name);
  for (TensorSpec& tensor : tensors) {
    tensor.offset = group.elements;
    group.elements += tensor.elements();
  }
  group.tensors = std::move(tensors);
  return group;
}

}  // namespace

ParameterLayout::ParameterLayout(const conf::ModelConfig& model, uint32_t slices)
    : model_(model), slices_(slices) {
  CHECK(slices > 0);
  const uint32_t d = model.width;
  const uint32_t d_kv = d / model.heads * model.kv_heads;
  const double base = 0.02;
  // Projections back into the residual stream are scaled down with depth, as GPT-2 does.
  const double residual = base / std::sqrt(2.0 * model.layers);
  groups_.push_back(make_group(GroupKind::kEmbedding, "embedding",
                               {matrix("token_embedding", model.vocabulary, d, base)}));
  for (uint32_t layer = 0; layer < model.layers; ++layer) {
    groups_.push_back(make_group(GroupKind::kAttention, fmt::format("block.{}.attention", layer),
                                 {norm(d), matrix("wq", d, d, base), matrix("wk", d_kv, d, base),
                                  matrix("wv", d_kv, d, base), matrix("wo", d, d, residual)}));
    groups_.back().layer = LayerIndex(layer);
    groups_.push_back(make_group(GroupKind::kRouter, fmt::format("block.{}.router", layer),
                                 {norm(d), matrix("router", model.experts, d, base)}));
    groups_.back().layer = LayerIndex(layer);
    for (uint32_t expert = 0; expert < model.experts; ++expert) {
      groups_.push_back(make_group(
          GroupKind::kExpert, fmt::format("block.{}.expert.{}", layer, expert),
          {matrix("gate", model.expert_width, d, base), matrix("up", model.expert_width, d, base),
           matrix("down", d, model.expert_width, residual)}));
      groups_.back().layer = LayerIndex(layer);
      groups_.back().expert = ExpertIndex(expert);
    }
  }
  groups_.push_back(make_group(GroupKind::kHead, "head",
                               {norm(d), matrix("output", model.vocabulary, d, base)}));
  for (uint32_t i = 0; i < groups_.size(); ++i) groups_[i].index = GroupIndex(i);
}

ElementRange ParameterLayout::range(ShardId shard) const {
  CHECK(shard.group.value < groups_.size() && shard.slice.value < slices_);
  const size_t elements = groups_[shard.group.value].elements;
  const size_t slice = shard.slice.value;
  return {slice * elements / slices_, (slice + 1) * elements / slices_};
}

GroupIndex ParameterLayout::attention(LayerIndex layer) const {
  CHECK(layer.value < model_.layers);
  return GroupIndex(1 + layer.value * (2 + model_.experts));
}
GroupIndex ParameterLayout::router(LayerIndex layer) const {
  return GroupIndex(attention(layer).value + 1);
}
GroupIndex ParameterLayout::expert(LayerIndex layer, ExpertIndex expert) const {
  CHECK(expert.value < model_.experts);
  return GroupIndex(attention(layer).value + 2 + expert.value);
}
GroupIndex ParameterLayout::head() const {
  return GroupIndex(static_cast<uint32_t>(groups_.size()) - 1);
}

}  // namespace holdfast::train
