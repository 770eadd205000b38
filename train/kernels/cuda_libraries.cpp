#include "train/kernels/cuda_libraries.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <system_error>
#include <vector>

#include "train/kernels/cublaslt_cuda.h"
#include "train/kernels/cudnn_cuda.h"

// cuDNN's front end takes its functions from here (cudnn_frontend_shim.h).
namespace cudnn_frontend {
extern void* cudnn_dlhandle;
void* cudnn_dlhandle = nullptr;
}  // namespace cudnn_frontend

namespace holdfast::train::kernels {
namespace {

std::vector<std::string> named_folders() {
  std::vector<std::string> folders;
  const char* list = std::getenv("HOLDFAST_CUDA_LIBRARIES");
  std::stringstream entries(list == nullptr ? "" : list);
  for (std::string entry; std::getline(entries, entry, ':');) {
    if (entry.empty()) continue;
    folders.push_back(entry);
    std::vector<std::string> below;
    std::error_code ignored;
    for (const auto& child : std::filesystem::directory_iterator(entry, ignored))
      if (std::filesystem::is_directory(child.path() / "lib", ignored))
        below.push_back(child.path() / "lib");
    std::sort(below.begin(), below.end());
    folders.insert(folders.end(), below.begin(), below.end());
  }
  return folders;
}

// The least with all functions that are called.
std::string version_needed(const std::string& soname) {
  if (soname == "libnccl.so.2") return "NCCL 2.28";
  if (soname == "libcudnn.so.9") return "cuDNN 9.0";
  if (soname == "libcublasLt.so.13") return "that of CUDA 13.0";
  return "another version";
}

// Functions are filled in through their own type, so that none can be mistaken for another.
class Functions {
 public:
  Functions(void* library, std::string soname) : library_(library), soname_(std::move(soname)) {}
  template <class F>
  void find(const char* name, F& function) {
    auto found = library_function(library_, soname_, name);
    if (found)
      function = reinterpret_cast<F>(*found);
    else if (status_)
      status_ = fail(found.error());
  }
  const Status& status() const { return status_; }

 private:
  void* library_;
  std::string soname_;
  Status status_;
};

Result<CublasLt> find_cublas_lt() {
  const std::string soname = "libcublasLt.so.13";
  ASSIGN_OR_RETURN(void* library, load_cuda_library(soname));
  CublasLt lt{};
  Functions functions(library, soname);
  functions.find("cublasLtCreate", lt.create);
  functions.find("cublasLtDestroy", lt.destroy);
  functions.find("cublasLtMatmul", lt.matmul);
  functions.find("cublasLtMatmulDescCreate", lt.desc_create);
  functions.find("cublasLtMatmulDescDestroy", lt.desc_destroy);
  functions.find("cublasLtMatmulDescSetAttribute", lt.desc_set);
  functions.find("cublasLtMatrixLayoutCreate", lt.layout_create);
  functions.find("cublasLtMatrixLayoutDestroy", lt.layout_destroy);
  functions.find("cublasLtMatmulPreferenceCreate", lt.preference_create);
  functions.find("cublasLtMatmulPreferenceDestroy", lt.preference_destroy);
  functions.find("cublasLtMatmulPreferenceSetAttribute", lt.preference_set);
  functions.find("cublasLtMatmulAlgoGetHeuristic", lt.heuristic);
  functions.find("cublasLtGetStatusString", lt.status_string);
  RETURN_IF_ERROR(functions.status());
  return lt;
}

Result<Cudnn> find_cudnn() {
  // What cuDNN and its front end open by these names; found already when they do.
  ASSIGN_OR_RETURN(void* runtime, load_cuda_library("libcudart.so.13"));
  (void)runtime;
  ASSIGN_OR_RETURN(void* compiler, load_cuda_library("libnvrtc.so.13"));
  (void)compiler;
  const std::string soname = "libcudnn.so.9";
  ASSIGN_OR_RETURN(void* library, load_cuda_library(soname));
  Cudnn dnn{};
  decltype(&cudnnGetVersion) version = nullptr;
  Functions functions(library, soname);
  functions.find("cudnnCreate", dnn.create);
  functions.find("cudnnDestroy", dnn.destroy);
  functions.find("cudnnSetStream", dnn.set_stream);
  functions.find("cudnnGetErrorString", dnn.error_string);
  functions.find("cudnnGetVersion", version);
  RETURN_IF_ERROR(functions.status());
  dnn.version = version();
  cudnn_frontend::cudnn_dlhandle = library;
  return dnn;
}

}  // namespace

Result<void*> load_cuda_library(const std::string& soname) {
  std::vector<std::string> folders = named_folders();
  folders.emplace_back();  // as the loader looks
  folders.insert(folders.end(), {"/usr/local/cuda/lib64", "/usr/lib/x86_64-linux-gnu"});
  std::string why;
  for (const std::string& folder : folders) {
    const std::string path = folder.empty() ? soname : folder + "/" + soname;
    // RTLD_GLOBAL: cuDNN's parts look for each other.
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL)) return library;
    // "is not there" is the dullest of reasons: keep another one.
    const char* error = dlerror();
    const bool exists = !folder.empty() && std::filesystem::exists(path);
    if (error != nullptr && (why.empty() || exists)) why = error;
  }
  std::erase(folders, std::string());
  return fail(ErrorCode::kDeviceMissing,
              fmt::format("{} was not found by the loader nor in {} ({})", soname,
                          fmt::join(folders, ", "), why));
}

Result<void*> library_function(void* library, const std::string& soname, const char* function) {
  if (void* found = dlsym(library, function)) return found;
  return fail(ErrorCode::kDeviceMissing,
              fmt::format("{} is too old: it has no {}; {} or later is needed", soname, function,
                          version_needed(soname)));
}

Result<const CublasLt*> load_cublas_lt() {
  static const Result<CublasLt> lt = find_cublas_lt();
  if (!lt) return fail(lt.error());
  return &*lt;
}

Result<const Cudnn*> load_cudnn() {
  static const Result<Cudnn> dnn = find_cudnn();
  if (!dnn) return fail(dnn.error());
  return &*dnn;
}

}  // namespace holdfast::train::kernels
