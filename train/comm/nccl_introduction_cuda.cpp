#include "train/comm/nccl_introduction_cuda.h"

#include <cuda_runtime.h>
#include <fmt/format.h>

#include <algorithm>

#include "train/kernels/device_cuda.cuh"

namespace holdfast::train {

Result<LaneDevice> lane_device(kernels::Cuda& cuda, const Result<const Nccl*>& nccl) {
  LaneDevice device;
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, cuda.impl().ordinal) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return fail(ErrorCode::kDeviceFailed, "the device does not tell its properties");
  }
  static_assert(sizeof properties.uuid.bytes == sizeof device.uuid);
  std::copy_n(reinterpret_cast<const uint8_t*>(properties.uuid.bytes), device.uuid.size(),
              device.uuid.begin());
  device.nccl_version = nccl ? (*nccl)->version : 0;
  return device;
}

void make_nccl_id(const Result<const Nccl*>& nccl, ncclUniqueId& id, LaneDevice& device) {
  if (!nccl || (*nccl)->get_unique_id(&id) != ncclSuccess) device.nccl_version = 0;
}

std::string through_host_memory(const std::string& why, const Result<const Nccl*>& nccl) {
  return fmt::format("FOR TESTING ONLY: payload goes through host memory, since {}{}", why,
                     nccl ? "" : " (here: " + nccl.error().message + ")");
}

}  // namespace holdfast::train
