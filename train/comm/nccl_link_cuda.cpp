#include "train/comm/nccl_link_cuda.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "train/comm/stream_mark_cuda.h"
#include "train/kernels/device_cuda.cuh"

namespace holdfast::train {
namespace {

constexpr std::chrono::milliseconds kGuardInterval{5};
constexpr std::chrono::milliseconds kPollInterval{1};
constexpr std::chrono::microseconds kLaunchSpin{500};
constexpr std::chrono::microseconds kIdlePoll{50};

int64_t ms_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() -
                                                               begin)
      .count();
}

Status runtime_status(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return {};
  return fail(ErrorCode::kDeviceFailed, fmt::format("{}: {}", what, cudaGetErrorString(error)));
}

}  // namespace

NcclLink::NcclLink(kernels::Cuda& cuda, const Nccl& nccl, Teardowns& aborts, NcclPlace place,
                   NcclOptions options)
    : cuda_(cuda), nccl_(nccl), aborts_(aborts), place_(place), options_(std::move(options)) {}

NcclLink::~NcclLink() {
  abandon();
  {
    const MutexLock lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (guarding_.joinable()) guarding_.join();
  if (abort_) abort_->dismiss();  // where there was no communicator
  if (!idle()) return;  // the device is given up: nothing may wait for it any more
  if (stream_ != nullptr) static_cast<void>(cudaStreamSynchronize(stream_));
  // Nobody marks or updates any more.
  static_cast<void>(cudaStreamSynchronize(cuda_.impl().stream));
  cuda_.abort_word().fetch_and(~kernels::Cuda::kExchangeBroken);
  if (after_ != nullptr) static_cast<void>(cudaEventDestroy(after_));
  if (place_.own_stream && stream_ != nullptr) static_cast<void>(cudaStreamDestroy(stream_));
}

// ---- setting up ---------------------------------------------------------------------------------

Error NcclLink::setup_error(const std::string& why) const {
  return {ErrorCode::kCommSetup, fmt::format("rank {} of {} did not join NCCL's communicator: {}",
                                             place_.rank, place_.size, why)};
}

Status NcclLink::open() {
  cuda_.use();
  *entered_ = *left_ = 0;
  cudaError_t made = cudaEventCreateWithFlags(&after_, cudaEventDisableTiming);
  if (!place_.own_stream) {
    stream_ = cuda_.impl().stream;
  } else if (made == cudaSuccess) {
    // Before what computes: others may wait for it.
    int least = 0, greatest = 0;
    made = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (made == cudaSuccess)
      made = cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest);
  }
  if (made != cudaSuccess)
    return fail(setup_error(fmt::format("no event or stream: {}", cudaGetErrorString(made))));
  return {};
}

Status NcclLink::wait_for_earlier() {
  const auto begin = Clock::now();
  while (!aborts_.wait_for(kPollInterval)) {
    if (cuda_.abort_word().load() != 0)
      return fail(ErrorCode::kCommAborted, "connecting was aborted");
    if (ms_since(begin) > options_.setup_ms)
      return fail(ErrorCode::kDeviceFailed,
                  fmt::format("rank {} of {}: NCCL's abort of an earlier communicator was not over "
                              "within {} ms",
                              place_.rank, place_.size, options_.setup_ms));
    options_.on_wait();
  }
  return {};
}

Status NcclLink::connect(const ncclUniqueId& id) {
  RETURN_IF_ERROR(wait_for_earlier());
  RETURN_IF_ERROR(open());
  // Its device is set now: while something waits for the device, no call of CUDA may be needed to abort.
  abort_ = aborts_.take([ordinal = cuda_.impl().ordinal] { static_cast<void>(cudaSetDevice(ordinal)); });
  if (!abort_) return fail(setup_error("no thread can be had"));
  const auto begin = Clock::now();
  {
    const MutexLock lock(mutex_);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    if (place_.most_blocks > 0) config.maxCTAs = place_.most_blocks;
    state_ = nccl_.init_rank(&comm_, static_cast<int>(place_.size), id,
                             static_cast<int>(place_.rank), &config);
  }
  while (true) {
    {
      const MutexLock lock(mutex_);
      RETURN_IF_ERROR(poll_setup(begin));
      if (state_ == ncclSuccess) break;
      changed_.wait_for(mutex_, kPollInterval);
    }
    options_.on_wait();
  }
  try {
    guarding_ = std::thread([this] { guard(); });
  } catch (const std::system_error&) {
    const MutexLock lock(mutex_);
    return break_off(ErrorCode::kCommSetup, setup_error("no thread can be had").message);
  }
  return cuda_.check();
}

Status NcclLink::poll_setup(Clock::time_point begin) {
  if (comm_ != nullptr && state_ == ncclInProgress) ask();
  std::string why;
  if (comm_ == nullptr || (state_ != ncclSuccess && state_ != ncclInProgress))
    why = fmt::format("{}: {}", nccl_.error_string(state_), nccl_.last_error(nullptr));
  else if (cuda_.abort_word().load() != 0)
    return break_off(ErrorCode::kCommAborted, "connecting was aborted");
  else if (state_ == ncclInProgress && ms_since(begin) > options_.setup_ms)
    why = fmt::format("the others did not come within {} ms", options_.setup_ms);
  if (why.empty()) return {};
  return break_off(ErrorCode::kCommSetup, setup_error(why).message);
}

// ---- the guard ----------------------------------------------------------------------------------

// The word comes before the abort: what is queued behind the exchange works on undefined bytes from then
// on. Where the view has ended the word is set, and where this lane leaves by itself it queues no update.
// The word ends the process's other links, too. What the abort says tells nothing: the communicator is gone.
Status NcclLink::break_off(ErrorCode code, std::string why) {
  failure_ = Error{code, std::move(why)};
  broke_launching_ = exchange_ == Exchange::kLaunching;
  exchange_ = Exchange::kNone;
  if (code == ErrorCode::kCommPeerLost || code == ErrorCode::kCommTimeout)
    cuda_.abort_word().fetch_or(kernels::Cuda::kExchangeBroken);
  if (comm_ != nullptr)
    abort_->begin([abort = nccl_.abort, comm = std::exchange(comm_, nullptr)] {
      static_cast<void>(abort(comm));
    });
  return fail(*failure_);
}

bool NcclLink::waits_for_others() {
  const auto at = [newest = number_](uint32_t* mark) {
    return std::atomic_ref<uint32_t>(*mark).load(std::memory_order_acquire) == newest;
  };
  if (exchange_ == Exchange::kLaunched && at(left_)) exchange_ = Exchange::kNone;
  if (exchange_ == Exchange::kNone || !at(entered_)) {
    waits_since_.reset();
    return false;
  }
  if (!waits_since_) waits_since_ = Clock::now();
  return true;
}

// Success also says that NCCL's thread has enqueued what it was given, and has ended.
void NcclLink::ask() {
  if (const auto asked = nccl_.async_error(comm_, &state_); asked != ncclSuccess) state_ = asked;
}

// Of the thread that enqueues and of the guard: whoever finds something wrong first ends it. While NCCL
// launches, the thread that has it do so judges alone: what is let through need not be waited for.
Status NcclLink::judge() {
  if (!failure_ && exchange_ == Exchange::kLaunching) return {};
  return judge_now();
}

Status NcclLink::judge_now() {
  if (failure_) return fail(*failure_);
  if (const uint32_t word = cuda_.abort_word().load(); word != 0)
    return break_off(ErrorCode::kCommAborted,
                     word == kernels::Cuda::kExchangeBroken
                         ? "another communicator of this worker is broken"
                         : "the view ended");
  ask();
  if (state_ != ncclSuccess && state_ != ncclInProgress)
    return break_off(ErrorCode::kCommPeerLost,
                     fmt::format("rank {}: NCCL reports {}: {}", place_.rank,
                                 nccl_.error_string(state_), nccl_.last_error(nullptr)));
  if (waits_for_others() && ms_since(*waits_since_) > options_.collective_ms)
    return break_off(ErrorCode::kCommTimeout,
                     fmt::format("rank {} waited {} ms for the others in an exchange", place_.rank,
                                 options_.collective_ms));
  return {};
}

void NcclLink::guard() {
  while (true) {
    bool waits = false;
    {
      const MutexLock lock(mutex_);
      if (!ending_) changed_.wait_for(mutex_, kGuardInterval);
      if (ending_ || !judge()) return;
      waits = waits_since_.has_value();
    }
    if (waits) options_.on_wait();
  }
}

Status NcclLink::verdict() {
  const MutexLock lock(mutex_);
  return judge();
}

Status NcclLink::finished() {
  Status broken;
  {
    const MutexLock lock(mutex_);
    exchange_ = Exchange::kNone;
    broken = judge();
  }
  if (!broken) RETURN_IF_ERROR(idle());
  return broken;
}

void NcclLink::abandon() {
  const MutexLock lock(mutex_);
  if (!failure_)
    static_cast<void>(break_off(ErrorCode::kCommAborted, "this lane has left the view"));
}

Error NcclLink::too_late(const char* what) const {
  return {ErrorCode::kDeviceFailed, fmt::format("rank {}: {} {} ms after an exchange was broken off",
                                                place_.rank, what, options_.setup_ms)};
}

// Where NCCL was launching, only the end of its abort says that it is not any more.
Status NcclLink::launching_is_over() {
  {
    const MutexLock lock(mutex_);
    if (!broke_launching_) return {};
  }
  if (abort_->wait_until(Clock::now() + std::chrono::milliseconds(options_.setup_ms))) return {};
  return fail(too_late("NCCL's abort is not over"));
}

Status NcclLink::idle() {
  {
    const MutexLock lock(mutex_);
    if (!failure_ || stream_ == nullptr) return {};
  }
  RETURN_IF_ERROR(launching_is_over());
  const auto deadline = Clock::now() + std::chrono::milliseconds(options_.setup_ms);
  cudaError_t at = cudaStreamQuery(stream_);
  while (at == cudaErrorNotReady && Clock::now() < deadline) {
    std::this_thread::sleep_for(kIdlePoll);  // a wait of CUDA's would have no limit
    at = cudaStreamQuery(stream_);
  }
  // That it was not ready counts as this thread's last error, and is none.
  if (cudaPeekAtLastError() == cudaErrorNotReady) static_cast<void>(cudaGetLastError());
  if (at == cudaErrorNotReady) return fail(too_late("the device is not idle"));
  return runtime_status(at, "an exchange that was broken off");
}

// ---- an exchange --------------------------------------------------------------------------------

Status NcclLink::exchange(std::span<const NcclTransfer> transfers) {
  // One exchange at a time, so that the marks mean one; the guard ends this wait, too.
  static_cast<void>(cudaEventSynchronize(after_));
  Status enqueued = enqueue(transfers);
  // Whoever called may free the memory now: that waits for what is on the device, but not for what comes.
  if (!enqueued) RETURN_IF_ERROR(launching_is_over());
  return enqueued;
}

Status NcclLink::enqueue(std::span<const NcclTransfer> transfers) {
  const MutexLock lock(mutex_);
  RETURN_IF_ERROR(judge());
  RETURN_IF_ERROR(runtime_status(mark_stream(stream_, entered_, ++number_), "a mark"));
  exchange_ = Exchange::kLaunching;
  RETURN_IF_ERROR(launch(transfers));
  RETURN_IF_ERROR(wait_until_launched());
  exchange_ = Exchange::kLaunched;  // the guard judges it from now on, whatever fails below
  RETURN_IF_ERROR(runtime_status(mark_stream(stream_, left_, number_), "a mark"));
  return runtime_status(cudaEventRecord(after_, stream_), "an event");
}

Status NcclLink::launch(std::span<const NcclTransfer> transfers) {
  ncclResult_t result = nccl_.group_start();
  const auto next = [&](ncclResult_t got) {
    if (result == ncclSuccess || result == ncclInProgress) result = got;
  };
  for (const NcclTransfer& one : transfers) {
    const int peer = static_cast<int>(one.peer);
    if (one.send != nullptr) next(nccl_.send(one.send, one.bytes, ncclUint8, peer, comm_, stream_));
    if (one.recv != nullptr) next(nccl_.recv(one.recv, one.bytes, ncclUint8, peer, comm_, stream_));
  }
  next(nccl_.group_end());
  if (result == ncclSuccess || result == ncclInProgress) return {};
  return break_off(ErrorCode::kCommPeerLost,
                   fmt::format("rank {}: NCCL takes no exchange: {}: {}", place_.rank,
                               nccl_.error_string(result), nccl_.last_error(nullptr)));
}

// A thread of NCCL's launches; nothing else may be enqueued before it has. Microseconds, but for
// the first exchange with a lane, which connects.
Status NcclLink::wait_until_launched() {
  const auto begin = Clock::now();
  while (true) {
    if (failure_) return fail(*failure_);
    ask();
    if (state_ == ncclSuccess) return {};
    const bool spins = state_ == ncclInProgress && Clock::now() - begin <= kLaunchSpin;
    if (!spins) {
      RETURN_IF_ERROR(judge_now());
      changed_.wait_for(mutex_, kPollInterval);
      continue;
    }
    mutex_.unlock();
    std::this_thread::yield();
    mutex_.lock();
  }
}

}  // namespace holdfast::train
