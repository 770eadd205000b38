#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/mutex.h"
#include "train/comm/lane_devices.h"
#include "train/comm/nccl_cuda.h"
#include "train/comm/nccl_payload.h"
#include "train/comm/stream_mark_cuda.h"
#include "train/kernels/device_cuda.cuh"
#include "train/kernels/ops_cuda.h"

namespace holdfast::train {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kGuardInterval{5};
constexpr std::chrono::milliseconds kPollInterval{1};
constexpr std::chrono::microseconds kLaunchSpin{500};

int64_t ms_since(Clock::time_point begin) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin).count();
}

}  // namespace

struct NcclPayload::Impl {
  Impl(kernels::Cuda& device, const Nccl& library, uint32_t own_rank, uint32_t lanes,
       NcclOptions given)
      : cuda(device), nccl(library), rank(own_rank), size(lanes), options(std::move(given)) {}
  ~Impl();

  Status connect(const ncclUniqueId& id) EXCLUDES(mutex);
  Status all_to_all(const std::byte* send, std::span<const size_t> send_bytes, std::byte* recv,
                    std::span<const size_t> recv_bytes) EXCLUDES(mutex);
  Status finished() EXCLUDES(mutex);
  void abandon() EXCLUDES(mutex);

 private:
  enum class Exchange : uint8_t { kNone, kLaunching, kLaunched };

  Error setup_error(const std::string& why) const;
  Status poll_setup(Clock::time_point begin) REQUIRES(mutex);
  Status judge() REQUIRES(mutex);
  bool waits_for_others() REQUIRES(mutex);
  Status break_off(ErrorCode code, std::string why) REQUIRES(mutex);
  Status launch(const std::byte* send, std::span<const size_t> send_bytes, std::byte* recv,
                std::span<const size_t> recv_bytes) REQUIRES(mutex);
  Status wait_until_launched() REQUIRES(mutex);
  void guard() EXCLUDES(mutex);

 public:
  kernels::Cuda& cuda;
  const Nccl& nccl;
  const uint32_t rank;
  const uint32_t size;
  const NcclOptions options;
  uint64_t sent_bytes = 0;

 private:
  cudaEvent_t after = nullptr;  // behind the newest exchange; for the thread that works
  // The number of the exchange that the stream has come to, and of the one that it has left: what
  // the guard looks at, who must call nothing of CUDA.
  PinnedBuffer<uint32_t> marks{2};
  uint32_t* const entered = &marks.data()[0];
  uint32_t* const left = &marks.data()[1];

  Mutex mutex;  // held for short calls, and while one thread aborts
  CondVar changed;
  ncclComm_t comm GUARDED_BY(mutex) = nullptr;
  ncclResult_t state GUARDED_BY(mutex) = ncclSuccess;  // as NCCL told last
  std::optional<Error> failure GUARDED_BY(mutex);      // the communicator is gone
  Exchange exchange GUARDED_BY(mutex) = Exchange::kNone;
  uint32_t number GUARDED_BY(mutex) = 0;  // of the newest exchange
  std::optional<Clock::time_point> waits_since GUARDED_BY(mutex);
  bool ending GUARDED_BY(mutex) = false;
  std::thread guarding;
};

NcclPayload::Impl::~Impl() {
  abandon();
  {
    const MutexLock lock(mutex);
    ending = true;
  }
  changed.notify_all();
  if (guarding.joinable()) guarding.join();
  static_cast<void>(cudaStreamSynchronize(cuda.impl().stream));  // nobody marks or updates any more
  cuda.abort_word().fetch_and(~kernels::Cuda::kExchangeBroken);
  if (after != nullptr) static_cast<void>(cudaEventDestroy(after));
}

// ---- setting up ---------------------------------------------------------------------------------

Error NcclPayload::Impl::setup_error(const std::string& why) const {
  return {ErrorCode::kCommSetup,
          fmt::format("rank {} of {} did not join NCCL's communicator: {}", rank, size, why)};
}

Status NcclPayload::Impl::connect(const ncclUniqueId& id) {
  cuda.use();
  *entered = *left = 0;
  if (cudaEventCreateWithFlags(&after, cudaEventDisableTiming) != cudaSuccess)
    return fail(setup_error("no event could be made"));
  const auto begin = Clock::now();
  {
    const MutexLock lock(mutex);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    state = nccl.init_rank(&comm, static_cast<int>(size), id, static_cast<int>(rank), &config);
  }
  while (true) {
    {
      const MutexLock lock(mutex);
      RETURN_IF_ERROR(poll_setup(begin));
      if (state == ncclSuccess) break;
      changed.wait_for(mutex, kPollInterval);
    }
    options.on_wait();
  }
  guarding = std::thread([this] { guard(); });
  return cuda.check();
}

Status NcclPayload::Impl::poll_setup(Clock::time_point begin) {
  if (comm != nullptr && state == ncclInProgress)
    if (const auto asked = nccl.async_error(comm, &state); asked != ncclSuccess) state = asked;
  std::string why;
  if (comm == nullptr || (state != ncclSuccess && state != ncclInProgress))
    why = fmt::format("{}: {}", nccl.error_string(state), nccl.last_error(nullptr));
  else if (cuda.abort_word().load() != 0)
    return break_off(ErrorCode::kCommAborted, "connecting was aborted");
  else if (state == ncclInProgress && ms_since(begin) > options.setup_ms)
    why = fmt::format("the others did not come within {} ms", options.setup_ms);
  if (why.empty()) return {};
  return break_off(ErrorCode::kCommSetup, setup_error(why).message);
}

// ---- the guard ----------------------------------------------------------------------------------

// NCCL sets the flag that its kernels look at before it waits for anything. The word comes before it:
// what is queued behind the exchange works on undefined bytes from then on. Where the view has ended the
// word is set, and where this lane leaves by itself it queues no update.
Status NcclPayload::Impl::break_off(ErrorCode code, std::string why) {
  failure = Error{code, std::move(why)};
  exchange = Exchange::kNone;
  if (code == ErrorCode::kCommPeerLost || code == ErrorCode::kCommTimeout)
    cuda.abort_word().fetch_or(kernels::Cuda::kExchangeBroken);
  if (comm != nullptr) static_cast<void>(nccl.abort(std::exchange(comm, nullptr)));
  return fail(*failure);
}

bool NcclPayload::Impl::waits_for_others() {
  const auto at = [newest = number](uint32_t* mark) {
    return std::atomic_ref<uint32_t>(*mark).load(std::memory_order_acquire) == newest;
  };
  if (exchange == Exchange::kLaunched && at(left)) exchange = Exchange::kNone;
  if (exchange == Exchange::kNone || !at(entered)) {
    waits_since.reset();
    return false;
  }
  if (!waits_since) waits_since = Clock::now();
  return true;
}

// Of the thread that works and of the guard: whoever finds something wrong first ends it.
Status NcclPayload::Impl::judge() {
  if (failure) return fail(*failure);
  if (cuda.abort_word().load() != 0) return break_off(ErrorCode::kCommAborted, "the view ended");
  if (const auto asked = nccl.async_error(comm, &state); asked != ncclSuccess) state = asked;
  if (state != ncclSuccess && state != ncclInProgress)
    return break_off(ErrorCode::kCommPeerLost,
                     fmt::format("rank {}: NCCL reports {}: {}", rank, nccl.error_string(state),
                                 nccl.last_error(nullptr)));
  if (waits_for_others() && ms_since(*waits_since) > options.collective_ms)
    return break_off(ErrorCode::kCommTimeout,
                     fmt::format("rank {} waited {} ms for the others in an exchange", rank,
                                 options.collective_ms));
  return {};
}

void NcclPayload::Impl::guard() {
  while (true) {
    bool waits = false;
    {
      const MutexLock lock(mutex);
      if (!ending) changed.wait_for(mutex, kGuardInterval);
      if (ending || !judge()) return;
      waits = waits_since.has_value();
    }
    if (waits) options.on_wait();
  }
}

Status NcclPayload::Impl::finished() {
  const MutexLock lock(mutex);
  exchange = Exchange::kNone;
  return judge();
}

void NcclPayload::Impl::abandon() {
  const MutexLock lock(mutex);
  if (!failure)
    static_cast<void>(break_off(ErrorCode::kCommAborted, "this lane has left the view"));
}

// ---- an exchange --------------------------------------------------------------------------------

Status NcclPayload::Impl::all_to_all(const std::byte* send, std::span<const size_t> send_bytes,
                                     std::byte* recv, std::span<const size_t> recv_bytes) {
  CHECK(send_bytes.size() == size && recv_bytes.size() == size &&
        send_bytes[rank] == recv_bytes[rank]);
  // One exchange at a time, so that the marks mean one; the guard ends this wait, too.
  static_cast<void>(cudaEventSynchronize(after));
  const MutexLock lock(mutex);
  RETURN_IF_ERROR(judge());
  const size_t from = PayloadExchange::total(send_bytes.first(rank));
  const size_t to = PayloadExchange::total(recv_bytes.first(rank));
  kernels::copy_bytes(cuda, send + from, send_bytes[rank], recv + to);
  if (PayloadExchange::total(send_bytes) + PayloadExchange::total(recv_bytes) ==
      2 * send_bytes[rank])
    return cuda.check();
  mark_stream(cuda, entered, ++number);
  exchange = Exchange::kLaunching;
  RETURN_IF_ERROR(launch(send, send_bytes, recv, recv_bytes));
  RETURN_IF_ERROR(wait_until_launched());
  mark_stream(cuda, left, number);
  cudaEventRecord(after, cuda.impl().stream);
  exchange = Exchange::kLaunched;
  sent_bytes += PayloadExchange::total(send_bytes) - send_bytes[rank];
  return cuda.check();
}

Status NcclPayload::Impl::launch(const std::byte* send, std::span<const size_t> send_bytes,
                                 std::byte* recv, std::span<const size_t> recv_bytes) {
  const auto stream = cuda.impl().stream;
  ncclResult_t result = nccl.group_start();
  const auto next = [&](ncclResult_t got) {
    if (result == ncclSuccess || result == ncclInProgress) result = got;
  };
  for (uint32_t r = 0; r < size; ++r) {
    const int peer = static_cast<int>(r);
    if (r != rank && send_bytes[r] > 0)
      next(nccl.send(send, send_bytes[r], ncclUint8, peer, comm, stream));
    if (r != rank && recv_bytes[r] > 0)
      next(nccl.recv(recv, recv_bytes[r], ncclUint8, peer, comm, stream));
    send += send_bytes[r];
    recv += recv_bytes[r];
  }
  next(nccl.group_end());
  if (result == ncclSuccess || result == ncclInProgress) return {};
  return break_off(ErrorCode::kCommPeerLost,
                   fmt::format("rank {}: NCCL takes no exchange: {}: {}", rank,
                               nccl.error_string(result), nccl.last_error(nullptr)));
}

// A thread of NCCL's launches; nothing else may be enqueued before it has. Microseconds, but for
// the first exchange with a lane, which connects.
Status NcclPayload::Impl::wait_until_launched() {
  const auto begin = Clock::now();
  while (true) {
    RETURN_IF_ERROR(judge());
    if (state == ncclSuccess) return {};
    if (Clock::now() - begin > kLaunchSpin) {
      changed.wait_for(mutex, kPollInterval);
      continue;
    }
    mutex.unlock();
    std::this_thread::yield();
    mutex.lock();
  }
}

// ---- what others see ----------------------------------------------------------------------------

NcclPayload::NcclPayload(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {
  impl_->cuda.on_finish([this] { return impl_->finished(); });
}
NcclPayload::~NcclPayload() { impl_->cuda.on_finish({}); }

Status NcclPayload::all_to_all(const std::byte* send, std::span<const size_t> send_bytes,
                               std::byte* recv, std::span<const size_t> recv_bytes) {
  return impl_->all_to_all(send, send_bytes, recv, recv_bytes);
}
uint64_t NcclPayload::sent_bytes() const { return impl_->sent_bytes; }
void NcclPayload::abandon() { impl_->abandon(); }

namespace {

// What every rank tells all others; the id counts from rank 0.
struct Introduction {
  LaneDevice device;
  ncclUniqueId id{};
};
static_assert(sizeof(Introduction) == sizeof(LaneDevice) + NCCL_UNIQUE_ID_BYTES &&
              std::is_trivially_copyable_v<Introduction>);

Result<Introduction> introduce(kernels::Cuda& cuda, const Result<const Nccl*>& nccl, bool with_id) {
  Introduction mine;
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, cuda.impl().ordinal) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return fail(ErrorCode::kDeviceFailed, "the device does not tell its properties");
  }
  static_assert(sizeof properties.uuid.bytes == sizeof mine.device.uuid);
  std::copy_n(reinterpret_cast<const uint8_t*>(properties.uuid.bytes), mine.device.uuid.size(),
              mine.device.uuid.begin());
  const bool usable = nccl && (!with_id || (*nccl)->get_unique_id(&mine.id) == ncclSuccess);
  mine.device.nccl_version = usable ? (*nccl)->version : 0;
  return mine;
}

}  // namespace

Result<NcclConnection> connect_nccl(kernels::Cuda& cuda, Communicator& comm, NcclOptions options) {
  if (comm.size() == 1) return NcclConnection{};  // has nobody to exchange with
  const Result<const Nccl*> nccl = load_nccl();
  ASSIGN_OR_RETURN(const Introduction mine, introduce(cuda, nccl, comm.rank() == 0));
  std::vector<Introduction> all(comm.size());
  const std::vector<size_t> sizes(comm.size(), sizeof mine);
  RETURN_IF_ERROR(comm.all_gather(std::as_bytes(std::span(&mine, 1)),
                                  std::as_writable_bytes(std::span(all)), sizes));
  std::vector<LaneDevice> devices;
  for (const Introduction& one : all) devices.push_back(one.device);
  if (const auto why = why_not_nccl(devices))
    return NcclConnection{
        nullptr, fmt::format("FOR TESTING ONLY: payload goes through host memory, since {}{}", *why,
                             nccl ? "" : " (here: " + nccl.error().message + ")")};
  auto impl = std::make_unique<NcclPayload::Impl>(cuda, **nccl, comm.rank(), comm.size(),
                                                  std::move(options));
  RETURN_IF_ERROR(impl->connect(all[0].id));
  return NcclConnection{std::make_unique<NcclPayload>(std::move(impl)),
                        fmt::format("payload goes from device to device by NCCL {}",
                                    nccl_version_text((*nccl)->version))};
}

}  // namespace holdfast::train
