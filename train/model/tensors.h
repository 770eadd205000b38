// The tensors of a group by name, in weights (P = const T*) and in gradients (P = T*).
#pragma once

#include "base/check.h"
#include "train/model/parameter_layout.h"

namespace holdfast::train {

template <class P>
struct AttentionTensors {
  P norm, wq, wk, wv, wo;
};
template <class P>
struct RouterTensors {
  P norm, router;
};
template <class P>
struct ExpertTensors {
  P gate, up, down;
};
template <class P>
struct HeadTensors {
  P norm, output;
};

template <class P>
AttentionTensors<P> attention_tensors(const GroupSpec& group, P base) {
  CHECK(group.kind == GroupKind::kAttention && base != nullptr, "{}", group.name);
  return {base + group.tensors[0].offset, base + group.tensors[1].offset,
          base + group.tensors[2].offset, base + group.tensors[3].offset,
          base + group.tensors[4].offset};
}
template <class P>
RouterTensors<P> router_tensors(const GroupSpec& group, P base) {
  CHECK(group.kind == GroupKind::kRouter && base != nullptr, "{}", group.name);
  return {base + group.tensors[0].offset, base + group.tensors[1].offset};
}
template <class P>
ExpertTensors<P> expert_tensors(const GroupSpec& group, P base) {
  CHECK(group.kind == GroupKind::kExpert && base != nullptr, "{} is not hosted here", group.name);
  return {base + group.tensors[0].offset, base + group.tensors[1].offset,
          base + group.tensors[2].offset};
}
template <class P>
HeadTensors<P> head_tensors(const GroupSpec& group, P base) {
  CHECK(group.kind == GroupKind::kHead && base != nullptr, "{}", group.name);
  return {base + group.tensors[0].offset, base + group.tensors[1].offset};
}

}  // namespace holdfast::train
