// Which payload exchange goes with which device.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "train/comm/hand_over.h"
#include "train/comm/payload.h"
#include "train/kernels/backends.h"
#ifdef HOLDFAST_CUDA
#include "train/comm/nccl_payload.h"
#include "train/comm/staged_payload.h"
#endif

namespace holdfast::train {

// Of one lane, over all its views:
//   open(view, group, first)  a view begins; all its members together. group: the lane's stage group;
//                 first: of every stage, the member that is its lane 0. Errors of view, kCommSetup.
//   over(group)   what to exchange payload with, in the open view
//   hand_over(view)  and what to hand it to neighbouring stages with
//   abandon()     the view ends here: nothing on the device waits for other lanes any more
//   close()       as abandon(), and the next view may come
//   path()        how payload travels in the open view, in words for the log; empty: nothing to say
template <class Device>
class LanePayload;

template <>
class LanePayload<kernels::Cpu> {
 public:
  LanePayload(kernels::Cpu&, std::function<void()>) {}
  Status open(ViewCommunicator&, Communicator&, const std::vector<uint32_t>&) { return {}; }
  PayloadExchange& over(Communicator& comm) { return payload_.emplace(comm); }
  PayloadHandOver& hand_over(ViewCommunicator& view) { return hand_over_.emplace(view); }
  void abandon() {}
  void close() {}
  std::string path() const { return {}; }

 private:
  std::optional<HostPayload> payload_;
  std::optional<HostHandOver> hand_over_;
};

#ifdef HOLDFAST_CUDA
template <>
class LanePayload<kernels::Cuda> {
 public:
  // on_wait: see NcclOptions.
  LanePayload(kernels::Cuda& cuda, std::function<void()> on_wait)
      : cuda_(cuda), on_wait_(std::move(on_wait)), staged_(cuda) {}

  Status open(Communicator& comm) {
    close();
    NcclOptions options;
    options.on_wait = on_wait_;
    ASSIGN_OR_RETURN(NcclConnection made, connect_nccl(cuda_, comm, std::move(options)));
    nccl_ = std::move(made.payload);
    path_ = std::move(made.path);
    return {};
  }
  PayloadExchange& over(Communicator& comm) {
    if (nccl_) return *nccl_;
    return staged_.over(comm);
  }
  void abandon() {
    if (nccl_) nccl_->abandon();
  }
  void close() {
    nccl_.reset();
    path_.clear();
  }
  const std::string& path() const { return path_; }

 private:
  kernels::Cuda& cuda_;
  const std::function<void()> on_wait_;
  StagedPayload staged_;
  std::unique_ptr<NcclPayload> nccl_;
  std::string path_;
};
#endif

}  // namespace holdfast::train
