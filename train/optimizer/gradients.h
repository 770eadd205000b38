// Weight gradients of one step on one lane, by group: the sums that reduce sends to the owners.
// Default mode: fp32, written or added by the W functions in place. Reproducible mode: each
// micro-batch's share is computed in fp32 and added in fixed point, which is associative (section 5 of
// DESIGN.md); it needs a backend that computes in host memory.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "train/kernels/backend.h"
#include "train/model/gradient_sink.h"
#include "train/optimizer/hosted_layout.h"

namespace holdfast::train {

// Fixed point: 2^44 steps to one; a micro-batch's share of one element must stay below 2^18.
inline constexpr int kFixedPointBits = 44;
inline constexpr double kFixedPointLimit = 0x1p18;

template <class B>
class Gradients final : public GradientSink<B> {
 public:
  Gradients(typename B::Device& device, bool reproducible);
  ~Gradients() override;

  // Memory for maps of up to so many elements, before they come; default mode only.
  void reserve(size_t elements) {
    if (!reproducible_) sums_.resize(elements);
  }
  // Nothing has been added yet, for the groups that this lane hosts; called at the start of every
  // step.
  void reset(const StageMap& map);

  GradientTarget<float> begin(GroupIndex group) override;
  Status commit(GroupIndex group) override;
  typename B::ExpertGradients experts(LayerIndex layer) override;

  // Ends the step's additions: groups that none was made to become zero.
  void close();

  bool reproducible() const { return reproducible_; }
  // After close(), from one element of a hosted group on.
  const float* sums(GroupIndex group, size_t element) const;
  const int64_t* fixed(GroupIndex group, size_t element) const;

 private:
  typename B::Device& device_;
  const bool reproducible_;
  const ParameterLayout* layout_ = nullptr;
  HostedLayout hosted_;
  std::vector<char> touched_;  // by group
  typename B::template Room<float> sums_;
  std::vector<std::vector<int64_t>> fixed_;  // by group; reproducible mode only
  std::vector<float> scratch_;
  class HostExperts;
  std::unique_ptr<HostExperts> host_experts_;  // of the layer of the last experts()
};

}  // namespace holdfast::train
