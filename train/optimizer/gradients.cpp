#include "train/optimizer/gradients.h"

#include <fmt/format.h>

#include <cmath>

#include "base/check.h"
#include "train/kernels/backends.h"

namespace holdfast::train {

using kernels::Into;

// The experts of one layer, one product after the other, as the CPU's operation asks for them.
template <class B>
class Gradients<B>::HostExperts final : public kernels::ExpertGradients<float> {
 public:
  explicit HostExperts(Gradients& gradients) : gradients_(gradients) {}
  void open(LayerIndex layer) { layer_ = layer; }
  Target begin(uint32_t hosted) override {
    const auto [at, into] = gradients_.begin(group(hosted));
    return {at, into};
  }
  Status commit(uint32_t hosted) override { return gradients_.commit(group(hosted)); }

 private:
  GroupIndex group(uint32_t hosted) const { return gradients_.hosted_.experts(layer_).at(hosted); }
  Gradients& gradients_;
  LayerIndex layer_;
};

template <class B>
Gradients<B>::Gradients(typename B::Device& device, bool reproducible)
    : device_(device),
      reproducible_(reproducible),
      host_experts_(std::make_unique<HostExperts>(*this)) {
  CHECK(B::kHostMemory || !reproducible, "fixed point needs host memory");
}
template <class B>
Gradients<B>::~Gradients() = default;

template <class B>
void Gradients<B>::reset(const StageMap& map) {
  layout_ = map.layout;
  hosted_ = HostedLayout(map);
  touched_.assign(layout_->groups().size(), 0);
  if (!reproducible_) {
    sums_.resize(hosted_.elements());
    return;
  }
  fixed_.resize(layout_->groups().size());
  for (const GroupSpec& group : layout_->groups())
    fixed_[group.index.value].assign(hosted_.hosts(group.index) ? group.elements : 0, 0);
}

template <class B>
GradientTarget<float> Gradients<B>::begin(GroupIndex group) {
  if (reproducible_) {
    scratch_.resize(fixed_[group.value].size());
    return {scratch_.data(), Into::kOverwrite};
  }
  const Into into = std::exchange(touched_[group.value], 1) ? Into::kAdd : Into::kOverwrite;
  return {sums_.data() + hosted_.offset(group), into};
}

template <class B>
Status Gradients<B>::commit(GroupIndex group) {
  if (!reproducible_) return {};
  std::vector<int64_t>& sum = fixed_[group.value];
  for (size_t i = 0; i < sum.size(); ++i) {
    const double value = scratch_[i];
    const bool fits = std::abs(value) < kFixedPointLimit;  // false for what is not a number
    if (!fits || __builtin_add_overflow(sum[i], std::llround(std::ldexp(value, kFixedPointBits)),
                                        &sum[i]))
      return fail(ErrorCode::kGradientOverflow,
                  fmt::format("gradient element {} of group {} is {}, fixed point takes less than "
                              "{} a micro-batch",
                              i, group.value, value, kFixedPointLimit));
  }
  return {};
}

template <class B>
typename B::ExpertGradients Gradients<B>::experts(LayerIndex layer) {
  if constexpr (B::kHostMemory) {
    host_experts_->open(layer);
    return *host_experts_;
  } else {
    bool touched = false;
    for (const GroupIndex group : hosted_.experts(layer))
      touched = std::exchange(touched_[group.value], 1) || touched;
    return {touched ? Into::kAdd : Into::kOverwrite,
            hosted_.expert_tensors(layer, sums_.data())};
  }
}

template <class B>
void Gradients<B>::close() {
  if (reproducible_) return;
  for (const GroupSpec& group : layout_->groups())
    if (hosted_.hosts(group.index) && !std::exchange(touched_[group.index.value], 1))
      zero(device_, sums_.data() + hosted_.offset(group.index), group.elements);
}

template <class B>
const float* Gradients<B>::sums(GroupIndex group, size_t element) const {
  CHECK(!reproducible_ && touched_[group.value]);
  return sums_.data() + hosted_.offset(group) + element;
}
template <class B>
const int64_t* Gradients<B>::fixed(GroupIndex group, size_t element) const {
  CHECK(reproducible_);
  return fixed_[group.value].data() + element;
}

template class Gradients<CpuBackend<float>>;
#define INSTANTIATE(B) template class Gradients<B>;
HOLDFAST_FOR_EACH_ACCELERATOR(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
