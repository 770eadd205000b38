#include "train/comm/nccl_channel_cuda.h"

#include <fmt/format.h>

#include <chrono>
#include <system_error>
#include <utility>

#include "train/kernels/device_cuda.cuh"

namespace holdfast::train {
namespace {

// A hand-over takes some hundred microseconds with so many; more would keep more of what computes waiting.
constexpr int kMostBlocks = 8;

NcclPlace beside(const ChannelMembers& members, uint32_t rank) {
  return {.rank = rank, .size = members.size(), .own_stream = true, .most_blocks = kMostBlocks};
}

// What both sides tell each other is that they are there, and nothing more.
Status say(HandOverLine& line, uint32_t to) { return line.send(to, {std::byte{1}}); }
Status hear(HandOverLine& line, uint32_t from) {
  std::byte word{};
  return line.receive(from, {&word, 1});
}

}  // namespace

StreamEvent::~StreamEvent() {
  if (event_ != nullptr) static_cast<void>(cudaEventDestroy(event_));
}

Status StreamEvent::record(cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  if (event_ == nullptr)
    error = cudaEventCreateWithFlags(&event_, cudaEventDisableTiming | cudaEventBlockingSync);
  if (error == cudaSuccess) error = cudaEventRecord(event_, stream);
  if (error == cudaSuccess) return {};
  return fail(ErrorCode::kDeviceFailed,
              fmt::format("an event between streams: {}", cudaGetErrorString(error)));
}

void StreamEvent::hold(cudaStream_t stream) const {
  if (event_ != nullptr) static_cast<void>(cudaStreamWaitEvent(stream, event_));
}

void StreamEvent::wait() const {
  if (event_ != nullptr) static_cast<void>(cudaEventSynchronize(event_));
}

// ---- sending ------------------------------------------------------------------------------------

NcclSender::NcclSender(kernels::Cuda& cuda, const Nccl& nccl, Teardowns& aborts,
                       ChannelMembers members, uint32_t self, std::unique_ptr<HandOverLine> line,
                       const NcclOptions& options)
    : cuda_(cuda),
      members_(members),
      flush_ms_(options.collective_ms),
      link_(cuda, nccl, aborts, beside(members, members.sender_rank(self)), options),
      line_(std::move(line)) {}

NcclSender::~NcclSender() {
  abandon();
  {
    const MutexLock lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (carrier_.joinable()) carrier_.join();
}

void NcclSender::abandon() {
  line_->abort();
  link_.abandon();
}

Status NcclSender::connect(const ncclUniqueId& id) {
  RETURN_IF_ERROR(link_.connect(id));
  try {
    carrier_ = std::thread([this] { carry(); });
  } catch (const std::system_error&) {
    return fail(ErrorCode::kCommSetup, "no thread can be had that hands over");
  }
  return {};
}

Status NcclSender::send(uint32_t to, const std::byte* from, size_t bytes) {
  Parcel parcel;
  {
    const MutexLock lock(mutex_);
    if (failure_) return fail(*failure_);
    if (!free_.empty()) {
      parcel = std::move(free_.back());
      free_.pop_back();
    }
  }
  const cudaStream_t stream = cuda_.impl().stream;
  parcel.to = to;
  parcel.sent.hold(stream);
  parcel.bytes.resize(bytes);
  kernels::copy_bytes(cuda_, from, bytes, parcel.bytes.data());
  RETURN_IF_ERROR(parcel.made.record(stream));
  {
    const MutexLock lock(mutex_);
    waiting_.push_back(std::move(parcel));
    ++taken_;
  }
  changed_.notify_all();
  return cuda_.check();
}

Status NcclSender::flush() {
  const MutexLock lock(mutex_);
  return wait_for(taken_);
}

Status NcclSender::flush_older() {
  const MutexLock lock(mutex_);
  return wait_for(older_);
}

// Until the first so many have left.
Status NcclSender::wait_for(uint64_t sent) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(flush_ms_);
  while (!failure_ && taken_ - waiting_.size() < sent) {
    if (std::chrono::steady_clock::now() >= deadline)
      return fail(ErrorCode::kCommTimeout,
                  fmt::format("member {} did not take what was handed over within {} ms",
                              waiting_.front().to, flush_ms_));
    changed_.wait_until(mutex_, deadline);
  }
  if (failure_) return fail(*failure_);
  older_ = taken_;
  return {};
}

void NcclSender::carry() {
  static_cast<void>(cudaSetDevice(cuda_.impl().ordinal));
  while (true) {
    Parcel* next = nullptr;
    {
      const MutexLock lock(mutex_);
      while (!ending_ && waiting_.empty()) changed_.wait(mutex_);
      if (ending_) return;
      next = &waiting_.front();  // stays where it is while others come behind it
    }
    const Status done = hand_on(*next);
    const MutexLock lock(mutex_);
    if (done) {
      free_.push_back(std::move(waiting_.front()));
      waiting_.pop_front();
    } else {
      failure_ = done.error();
    }
    changed_.notify_all();
    if (failure_) return;
  }
}

Status NcclSender::hand_on(Parcel& parcel) {
  RETURN_IF_ERROR(hear(*line_, parcel.to));
  parcel.made.wait();
  RETURN_IF_ERROR(link_.verdict());
  // Before its own part: the first exchange with a receiver is not enqueued before both have come.
  RETURN_IF_ERROR(say(*line_, parcel.to));
  const NcclTransfer transfer{.peer = members_.receiver_rank(parcel.to),
                              .send = parcel.bytes.data(),
                              .bytes = parcel.bytes.size()};
  RETURN_IF_ERROR(link_.exchange({&transfer, 1}));
  RETURN_IF_ERROR(parcel.sent.record(link_.stream()));
  return line_->flush();
}

// ---- receiving ----------------------------------------------------------------------------------

NcclReceiver::NcclReceiver(kernels::Cuda& cuda, const Nccl& nccl, Teardowns& aborts,
                           ChannelMembers members, uint32_t self,
                           std::unique_ptr<HandOverLine> line, const NcclOptions& options)
    : cuda_(cuda),
      members_(members),
      link_(cuda, nccl, aborts, beside(members, members.receiver_rank(self)), options),
      line_(std::move(line)) {}

void NcclReceiver::abandon() {
  line_->abort();
  link_.abandon();
}

Result<const std::byte*> NcclReceiver::receive(uint32_t from, size_t bytes) {
  const cudaStream_t stream = cuda_.impl().stream;
  if (newest_ != nullptr) RETURN_IF_ERROR(newest_->used.record(stream));
  Slot& slot = newest_ == slots_.data() ? slots_[1] : slots_[0];
  // On the host, so that no kernel of NCCL waits for it; the device has the round in between to do.
  slot.used.wait();
  slot.bytes.resize(bytes);
  RETURN_IF_ERROR(link_.verdict());  // nobody is invited to what has broken
  RETURN_IF_ERROR(say(*line_, from));
  RETURN_IF_ERROR(hear(*line_, from));
  RETURN_IF_ERROR(line_->flush());
  const NcclTransfer transfer{
      .peer = members_.sender_rank(from), .recv = slot.bytes.data(), .bytes = bytes};
  RETURN_IF_ERROR(link_.exchange({&transfer, 1}));
  RETURN_IF_ERROR(arrived_.record(link_.stream()));
  arrived_.hold(stream);
  newest_ = &slot;
  return slot.bytes.data();
}

}  // namespace holdfast::train
