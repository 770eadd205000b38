// Parameter groups: every parameter of a model has one place in one flat fp32 vector per group, in a
// canonical order that is the same on every node, whatever D, S and P are.
//
//   embedding            token_embedding [V, d]
//   block.L.attention    norm [d], wq [d, d], wk [dkv, d], wv [dkv, d], wo [d, d]
//   block.L.router       norm [d], router [E, d]
//   block.L.expert.E     gate w1 [f, d], up w3 [f, d], down w2 [d, f]
//   head                 norm [d], output [V, d]
// Matrices are [out, in], row-major: y = x W^T.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "conf/model_config.h"

namespace holdfast::train {

enum class GroupKind : uint8_t { kEmbedding, kAttention, kRouter, kExpert, kHead };

struct TensorSpec {
  std::string name;  // within the group: "wq"
  uint32_t rows = 1;
  uint32_t columns = 1;
  size_t offset = 0;   // elements from the start of the group
  bool decays = true;  // weight decay applies (matrices, not norms)
  double init_stddev = 0.02;  // 0: initialised to ones (norms)
  size_t elements() const { return size_t{rows} * columns; }
};

struct GroupSpec {
  GroupIndex index;
  GroupKind kind = GroupKind::kEmbedding;
  LayerIndex layer;    // block groups only
  ExpertIndex expert;  // expert groups only
  std::string name;    // "block.2.expert.5"
  size_t elements = 0;
  std::vector<TensorSpec> tensors;
};

// Elements [begin, end) of a group.
struct ElementRange {
  size_t begin = 0;
  size_t end = 0;
  size_t size() const { return end - begin; }
};

class ParameterLayout {
 public:
  explicit ParameterLayout(const conf::ModelConfig& model, uint32_t slices);

  const conf::ModelConfig& model() const { return model_; }
  uint32_t slices() const { return slices_; }  // P
  std::span<const GroupSpec> groups() const { return groups_; }
  const GroupSpec& group(GroupIndex index) const { return groups_[index.value]; }
  uint32_t shard_count() const { return static_cast<uint32_t>(groups_.size()) * slices_; }

  // Slice s of P covers [s*n/P, (s+1)*n/P): sizes differ by one element at most, may be 0.
  ElementRange range(ShardId shard) const;
  // Bytes of a captured shard: master, m, v in that order, 4 bytes an element each.
  size_t shard_bytes(ShardId shard) const { return range(shard).size() * 12; }

  GroupIndex embedding() const { return GroupIndex(0); }
  GroupIndex attention(LayerIndex layer) const;
  GroupIndex router(LayerIndex layer) const;
  GroupIndex expert(LayerIndex layer, ExpertIndex expert) const;
  GroupIndex head() const;

 private:
  conf::ModelConfig model_;
  uint32_t slices_;
  std::vector<GroupSpec> groups_;
};

}  // namespace holdfast::train
