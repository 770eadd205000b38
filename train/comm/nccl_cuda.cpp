#include "train/comm/nccl_cuda.h"

#include <string>

#include "train/kernels/cuda_libraries.h"

namespace holdfast::train {
namespace {

const std::string kLibrary = "libnccl.so.2";

template <class F>
Status find(void* library, const char* name, F& function) {
  ASSIGN_OR_RETURN(void* found, kernels::library_function(library, kLibrary, name));
  function = reinterpret_cast<F>(found);
  return {};
}

Result<Nccl> find_nccl() {
  ASSIGN_OR_RETURN(void* library, kernels::load_cuda_library(kLibrary));
  Nccl nccl{};
  decltype(&ncclGetVersion) get_version = nullptr;
  RETURN_IF_ERROR(find(library, "ncclGetVersion", get_version));
  RETURN_IF_ERROR(find(library, "ncclGetUniqueId", nccl.get_unique_id));
  RETURN_IF_ERROR(find(library, "ncclCommInitRankConfig", nccl.init_rank));
  RETURN_IF_ERROR(find(library, "ncclCommAbort", nccl.abort));
  RETURN_IF_ERROR(find(library, "ncclCommGetAsyncError", nccl.async_error));
  RETURN_IF_ERROR(find(library, "ncclGetErrorString", nccl.error_string));
  RETURN_IF_ERROR(find(library, "ncclGetLastError", nccl.last_error));
  RETURN_IF_ERROR(find(library, "ncclGroupStart", nccl.group_start));
  RETURN_IF_ERROR(find(library, "ncclGroupEnd", nccl.group_end));
  RETURN_IF_ERROR(find(library, "ncclSend", nccl.send));
  RETURN_IF_ERROR(find(library, "ncclRecv", nccl.recv));
  int version = 0;
  if (get_version(&version) != ncclSuccess || version <= 0)
    return fail(ErrorCode::kDeviceMissing, kLibrary + " does not tell its version");
  nccl.version = static_cast<uint32_t>(version);
  return nccl;
}

}  // namespace

Result<const Nccl*> load_nccl() {
  static const Result<Nccl> nccl = find_nccl();
  if (!nccl) return fail(nccl.error());
  return &*nccl;
}

}  // namespace holdfast::train
