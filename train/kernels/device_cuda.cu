#include <cstring>
#include <new>
#include <utility>

#include "train/kernels/cublaslt_cuda.h"
#include "train/kernels/cuda_libraries.h"
#include "train/kernels/cudnn_cuda.h"
#include "train/kernels/device_cuda.cuh"
#include "train/kernels/ops_cuda.h"

namespace holdfast::train::kernels {
namespace {

Status runtime_status(cudaError_t error, ErrorCode code, const std::string& what) {
  if (error == cudaSuccess) return {};
  static_cast<void>(cudaGetLastError());
  return fail(code, what + ": " + cudaGetErrorString(error));
}

Status find_device(uint32_t ordinal) {
  ASSIGN_OR_RETURN(const uint32_t count, Cuda::count());
  if (ordinal >= count)
    return fail(ErrorCode::kDeviceMissing, "there is no CUDA device " + std::to_string(ordinal) +
                                               " (" + std::to_string(count) + " found)");
  return runtime_status(cudaSetDevice(static_cast<int>(ordinal)), ErrorCode::kDeviceMissing,
                        "CUDA device " + std::to_string(ordinal) + " cannot be used");
}

Status open_libraries(Cuda::Impl& impl) {
  ASSIGN_OR_RETURN(impl.blas, load_cublas_lt());
  if (const auto status = impl.blas->create(&impl.blas_handle); status != CUBLAS_STATUS_SUCCESS)
    return fail(ErrorCode::kDeviceFailed,
                std::string("cuBLAS does not start: ") + impl.blas->status_string(status));
  ASSIGN_OR_RETURN(const Cudnn* dnn, load_cudnn());
  auto status = dnn->create(&impl.dnn_handle);
  if (status == CUDNN_STATUS_SUCCESS) status = dnn->set_stream(impl.dnn_handle, impl.stream);
  if (status != CUDNN_STATUS_SUCCESS)
    return fail(ErrorCode::kDeviceFailed,
                std::string("cuDNN does not start: ") + dnn->error_string(status));
  return {};
}

}  // namespace

Cuda::Impl::~Impl() {
  if (stream == nullptr) return;
  static_cast<void>(cudaSetDevice(ordinal));
  static_cast<void>(cudaStreamSynchronize(stream));
  if (registered != nullptr) static_cast<void>(cudaHostUnregister(registered));
  attention_graphs.reset();
  gemm_plans.reset();
  if (dnn_handle != nullptr) static_cast<void>((*load_cudnn())->destroy(dnn_handle));
  if (blas_handle != nullptr) static_cast<void>(blas->destroy(blas_handle));
  if (table_copied_ != nullptr) static_cast<void>(cudaEventDestroy(table_copied_));
  static_cast<void>(cudaStreamDestroy(stream));
}

void Cuda::Impl::launched(const char* operation) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) failed(operation, cudaGetErrorString(error));
}

void Cuda::Impl::failed(const char* operation, const std::string& why) {
  if (error_.empty()) error_ = std::string(operation) + ": " + why;
}

Status Cuda::Impl::status() const {
  if (error_.empty()) return {};
  return fail(ErrorCode::kDeviceFailed, "CUDA device " + std::to_string(ordinal) + ": " + error_);
}

const void* Cuda::Impl::table(const void* host, size_t bytes) {
  if (table_copied_ == nullptr) {
    cudaEventCreateWithFlags(&table_copied_, cudaEventDisableTiming);
    launched("table");
  } else if (cudaEventSynchronize(table_copied_) != cudaSuccess) {
    launched("table");
  }
  if (bytes > device_table_.size()) {
    cudaStreamSynchronize(stream);  // an operation may still read the smaller one
    host_table_.resize(bytes);
    device_table_.resize(bytes);
  }
  std::memcpy(host_table_.data(), host, bytes);
  cudaMemcpyAsync(device_table_.data(), host_table_.data(), bytes, cudaMemcpyHostToDevice, stream);
  cudaEventRecord(table_copied_, stream);
  launched("table");
  return device_table_.data();
}

void* Cuda::Impl::scratch(size_t bytes) {
  if (bytes > scratch_.size()) {
    const cudaError_t error = cudaStreamSynchronize(stream);  // nobody uses the old one any more
    if (error != cudaSuccess) failed("an earlier operation", cudaGetErrorString(error));
    scratch_.resize(bytes);
  }
  return scratch_.data();
}

Cuda::Cuda(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Cuda::~Cuda() = default;

Result<uint32_t> Cuda::count() {
  int count = 0;
  RETURN_IF_ERROR(runtime_status(cudaGetDeviceCount(&count), ErrorCode::kDeviceMissing,
                                 "no CUDA device can be used"));
  if (count == 0) return fail(ErrorCode::kDeviceMissing, "there is no CUDA device");
  return static_cast<uint32_t>(count);
}

Status Cuda::register_host(void* at, size_t bytes) {
  if (bytes == 0) return {};
  const cudaError_t error = cudaHostRegister(at, bytes, cudaHostRegisterPortable);
  RETURN_IF_ERROR(runtime_status(
      error,
      error == cudaErrorMemoryAllocation ? ErrorCode::kDeviceMemory : ErrorCode::kDeviceFailed,
      "pinning the " + std::to_string(bytes) +
          " bytes of the arena (make the arena smaller or raise the limit of locked memory)"));
  impl_->registered = at;
  return {};
}

Result<std::unique_ptr<Cuda>> Cuda::open(uint32_t ordinal) try {
  RETURN_IF_ERROR(find_device(ordinal));
  auto impl = std::make_unique<Impl>();
  impl->ordinal = static_cast<int>(ordinal);
  cudaDeviceProp properties{};
  RETURN_IF_ERROR(runtime_status(cudaGetDeviceProperties(&properties, impl->ordinal),
                                 ErrorCode::kDeviceFailed, "reading the device's properties"));
  impl->name = properties.name;
  impl->multiprocessors = properties.multiProcessorCount;
  impl->capability = properties.major * 10 + properties.minor;
  if (impl->capability < 80)
    return fail(ErrorCode::kDeviceMissing,
                impl->name + " has no bf16: compute capability 8.0 is the least");
  RETURN_IF_ERROR(runtime_status(cudaStreamCreateWithFlags(&impl->stream, cudaStreamNonBlocking),
                                 ErrorCode::kDeviceFailed, "making a stream"));
  RETURN_IF_ERROR(open_libraries(*impl));
  impl->product_workspace.resize(Impl::kProductWorkspace);
  impl->abort_room.resize(1);
  impl->abort_word = new (impl->abort_room.data()) std::atomic<uint32_t>(0);
  return std::unique_ptr<Cuda>(new Cuda(std::move(impl)));
} catch (const OutOfDeviceMemory& memory) {
  return fail(ErrorCode::kDeviceMemory,
              "opening the device takes " + std::to_string(memory.bytes) + " bytes");
}

void Cuda::use() {
  const cudaError_t error = cudaSetDevice(impl_->ordinal);
  if (error != cudaSuccess) impl_->failed("use", cudaGetErrorString(error));
}

Status Cuda::check() {
  impl_->launched("an earlier operation");
  return impl_->status();
}

Status Cuda::finish() {
  const cudaError_t error = cudaStreamSynchronize(impl_->stream);
  if (error != cudaSuccess) impl_->failed("an earlier operation", cudaGetErrorString(error));
  RETURN_IF_ERROR(check());
  Status worst;
  for (const auto& [owner, verdict] : impl_->verdicts) {
    Status one = verdict();
    // What was given up because something else broke tells less than that, and a device that failed more.
    if (!one && (worst || worst.error().code == ErrorCode::kCommAborted ||
                 one.error().code == ErrorCode::kDeviceFailed))
      worst = std::move(one);
  }
  return worst;
}

Status Cuda::probe() {
  zero_bytes(*this, impl_->product_workspace.data(), 1);  // in order with the products
  const cudaError_t error = cudaStreamSynchronize(impl_->stream);
  if (error != cudaSuccess) impl_->failed("a probe", cudaGetErrorString(error));
  return check();
}

void Cuda::on_finish(const void* owner, std::function<Status()> verdict) {
  auto& all = impl_->verdicts;
  std::erase_if(all, [&](const auto& one) { return one.first == owner; });
  if (verdict) all.emplace_back(owner, std::move(verdict));
}

std::atomic<uint32_t>& Cuda::abort_word() { return *impl_->abort_word; }

const std::string& Cuda::name() const { return impl_->name; }
bool Cuda::is_hopper() const { return impl_->capability == 90; }

void copy_bytes(Cuda& cuda, const void* from, size_t bytes, void* to) {
  if (bytes == 0) return;
  cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda.impl().stream);
  cuda.impl().launched("copy");
}
void zero_bytes(Cuda& cuda, void* at, size_t bytes) {
  if (bytes == 0) return;
  cudaMemsetAsync(at, 0, bytes, cuda.impl().stream);
  cuda.impl().launched("zero");
}
void upload_bytes(Cuda& cuda, const void* host, size_t bytes, void* to) {
  if (bytes == 0) return;
  cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, cuda.impl().stream);
  cuda.impl().launched("upload");
}
void download_bytes(Cuda& cuda, const void* from, size_t bytes, void* host) {
  if (bytes == 0) return;
  cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, cuda.impl().stream);
  cuda.impl().launched("download");
}

void upload_now(Cuda& cuda, const void* host, size_t bytes, void* to) {
  if (bytes == 0) return;
  Cuda::Impl& impl = cuda.impl();
  cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, impl.stream);
  cudaStreamSynchronize(impl.stream);
  impl.launched("upload_now");
}

CudaMoment::~CudaMoment() {
  if (event_ != nullptr) static_cast<void>(cudaEventDestroy(static_cast<cudaEvent_t>(event_)));
}

void CudaMoment::record(Cuda& cuda) {
  cudaError_t error = cudaSuccess;
  if (event_ == nullptr) {
    cudaEvent_t made = nullptr;
    // The thread sleeps while it waits: other workers of the machine need the processor.
    error = cudaEventCreateWithFlags(&made, cudaEventDisableTiming | cudaEventBlockingSync);
    event_ = made;
  }
  if (error == cudaSuccess)
    error = cudaEventRecord(static_cast<cudaEvent_t>(event_), cuda.impl().stream);
  if (error != cudaSuccess) cuda.impl().failed("a moment", cudaGetErrorString(error));
}

void CudaMoment::wait() {
  if (event_ != nullptr) static_cast<void>(cudaEventSynchronize(static_cast<cudaEvent_t>(event_)));
}

struct CudaReader::Impl {
  int ordinal;
  cudaStream_t stream = nullptr;
  cudaError_t error = cudaSuccess;  // of making the stream
};

CudaReader::CudaReader(Cuda& cuda) : impl_(std::make_unique<Impl>(Impl{cuda.impl().ordinal})) {
  impl_->error = cudaSetDevice(impl_->ordinal);
  if (impl_->error == cudaSuccess)
    impl_->error = cudaStreamCreateWithFlags(&impl_->stream, cudaStreamNonBlocking);
}

CudaReader::~CudaReader() {
  if (impl_->stream == nullptr) return;
  static_cast<void>(cudaSetDevice(impl_->ordinal));
  static_cast<void>(cudaStreamDestroy(impl_->stream));
}

Status CudaReader::read(const void* from, size_t bytes, void* host) {
  if (bytes == 0) return {};
  cudaError_t error = impl_->error;
  if (error == cudaSuccess) error = cudaSetDevice(impl_->ordinal);
  if (error == cudaSuccess)
    error = cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, impl_->stream);
  if (error == cudaSuccess) error = cudaStreamSynchronize(impl_->stream);
  return runtime_status(error, ErrorCode::kDeviceFailed,
                        "reading from CUDA device " + std::to_string(impl_->ordinal));
}

}  // namespace holdfast::train::kernels
