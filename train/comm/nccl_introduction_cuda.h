// What members of a view tell each other before they connect by NCCL.
#pragma once

#include <string>
#include <vector>

#include "train/comm/communicator.h"
#include "train/comm/lane_devices.h"
#include "train/comm/nccl_cuda.h"
#include "train/kernels/cuda.h"

namespace holdfast::train {

// kDeviceFailed: the device does not say what it is.
Result<LaneDevice> lane_device(kernels::Cuda& cuda, const Result<const Nccl*>& nccl);
// Where an id cannot be made, NCCL counts as missing here.
void make_nccl_id(const Result<const Nccl*>& nccl, ncclUniqueId& id, LaneDevice& device);
// For the log.
std::string through_host_memory(const std::string& why, const Result<const Nccl*>& nccl);

// Every rank's, by rank. T travels as it is.
template <class T>
Result<std::vector<T>> exchange_introductions(Communicator& comm, const T& mine) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::vector<T> all(comm.size());
  const std::vector<size_t> sizes(comm.size(), sizeof mine);
  RETURN_IF_ERROR(comm.all_gather(std::as_bytes(std::span(&mine, 1)),
                                  std::as_writable_bytes(std::span(all)), sizes));
  return all;
}

}  // namespace holdfast::train
