// The tensors of a group by name, in weights (P = const T*) and in gradients (P = T*).
#pragma once

#include "base/check.h"
#include "train/model/parameter_layout.h"

namespace holdfast::train {

template <class P>
struct AttentionTensors {
  P norm;
  P wqkv;  // wq, wk and wv, one below the other
  P wo;
};
template <class P>
struct RouterTensors {
  P norm, router;
};
template <class P>
struct HeadTensors {
  P norm, output;
};

template <class P>
AttentionTensors<P> attention_tensors(const GroupSpec& group, P base) {
  CHECK(group.kind == GroupKind::kAttention && base != nullptr, "{}", group.name);
  return {base + group.tensors[0].offset, base + group.tensors[1].offset,
          base + group.tensors[4].offset};
}
template <class P>
RouterTensors<P> router_tensors(const GroupSpec& group, P base) {
  CHECK(group.kind == GroupKind::kRouter && base != nullptr, "{}", group.name);
  return {base + group.tensors[0].offset, base + group.tensors[1].offset};
}
template <class P>
HeadTensors<P> head_tensors(const GroupSpec& group, P base) {
  CHECK(group.kind == GroupKind::kHead && base != nullptr, "{}", group.name);
  return {base + group.tensors[0].offset, base + group.tensors[1].offset};
}

}  // namespace holdfast::train
