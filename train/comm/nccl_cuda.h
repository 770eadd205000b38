// The functions of NCCL that are used, found at run time; all are in 2.28.3.
#pragma once

#include <nccl.h>

#include <cstdint>

#include "base/result.h"

namespace holdfast::train {

struct Nccl {
  uint32_t version;  // 22803 for 2.28.3
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRankConfig) init_rank;
  decltype(&ncclCommAbort) abort;
  decltype(&ncclCommGetAsyncError) async_error;
  decltype(&ncclGetErrorString) error_string;
  decltype(&ncclGetLastError) last_error;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) recv;
};

// Loaded once per process. kDeviceMissing names what is not there.
Result<const Nccl*> load_nccl();

}  // namespace holdfast::train
