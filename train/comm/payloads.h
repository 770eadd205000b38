// Which payload exchange goes with which device.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "train/comm/hand_over.h"
#include "train/comm/payload.h"
#include "train/kernels/backends.h"
#ifdef HOLDFAST_CUDA
#include "base/teardowns.h"
#include "train/comm/nccl_hand_over.h"
#include "train/comm/nccl_payload.h"
#include "train/comm/staged_hand_over.h"
#include "train/comm/staged_payload.h"
#endif

namespace holdfast::train {

// Of one lane, over all its views:
//   open(view, group, first)  a view begins; all its members together. group: the lane's stage group;
//                 first: of every stage, the member that is its lane 0. Errors of view, kCommSetup.
//   over(group)   what to exchange payload with, in the open view
//   hand_over(view)  and what to hand it to neighbouring stages with
//   abandon()     the view ends here: what waits for other lanes on the device is given up; once the device's
//                 finish() has returned, nothing of it is left there
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
      : cuda_(cuda), on_wait_(std::move(on_wait)), staged_(cuda), staged_hand_over_(cuda) {}

  Status open(ViewCommunicator& view, Communicator& group, const std::vector<uint32_t>& first) {
    close();
    NcclOptions options;
    options.on_wait = on_wait_;
    if (first.size() > 1) {
      ASSIGN_OR_RETURN(HandOverConnection made, connect_stages(cuda_, aborts_, view, first, options));
      nccl_hand_over_ = std::move(made.hand_over);
      path_ = std::move(made.path);
      if (!nccl_hand_over_) return {};  // the whole view goes one way
    }
    ASSIGN_OR_RETURN(NcclConnection made, connect_nccl(cuda_, aborts_, group, std::move(options)));
    nccl_ = std::move(made.payload);
    if (path_.empty()) path_ = std::move(made.path);
    return {};
  }
  PayloadExchange& over(Communicator& comm) {
    if (nccl_) return *nccl_;
    return staged_.over(comm);
  }
  PayloadHandOver& hand_over(ViewCommunicator& view) {
    if (nccl_hand_over_) return *nccl_hand_over_;
    return staged_hand_over_.over(view);
  }
  void abandon() {
    if (nccl_) nccl_->abandon();
    if (nccl_hand_over_) nccl_hand_over_->abandon();
  }
  void close() {
    abandon();  // both, before either waits for the device
    nccl_.reset();
    nccl_hand_over_.reset();
    path_.clear();
  }
  const std::string& path() const { return path_; }

 private:
  kernels::Cuda& cuda_;
  const std::function<void()> on_wait_;
  StagedPayload staged_;
  StagedHandOver staged_hand_over_;
  Teardowns aborts_{std::chrono::seconds(10)};  // of the communicators below, and of views before
  std::unique_ptr<NcclPayload> nccl_;
  std::unique_ptr<NcclHandOver> nccl_hand_over_;
  std::string path_;
};
#endif

}  // namespace holdfast::train
