// Which payload exchange goes with which device.
#pragma once

#include <optional>

#include "train/comm/payload.h"
#include "train/kernels/backends.h"
#ifdef HOLDFAST_CUDA
#include "train/comm/staged_payload.h"
#endif

namespace holdfast::train {

template <class Device>
class LanePayload;

template <>
class LanePayload<kernels::Cpu> {
 public:
  explicit LanePayload(kernels::Cpu&) {}
  PayloadExchange& over(Communicator& comm) { return payload_.emplace(comm); }

 private:
  std::optional<HostPayload> payload_;
};

#ifdef HOLDFAST_CUDA
template <>
class LanePayload<kernels::Cuda> : public StagedPayload {
 public:
  using StagedPayload::StagedPayload;
};
#endif

}  // namespace holdfast::train
