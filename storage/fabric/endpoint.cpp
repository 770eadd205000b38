#include "storage/fabric/endpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "storage/fabric/range.h"

namespace holdfast::storage {
namespace {

constexpr uint64_t kChunkBytes = 4 << 20;
constexpr uint64_t kWindowChunks = 32;
constexpr std::chrono::milliseconds kRetryAfter{1};

}  // namespace

Endpoint::Endpoint(const Provider& provider, std::span<std::byte> region, std::string peer,
                   std::chrono::milliseconds timeout, std::function<void(Status)> connected)
    : provider_(provider),
      region_(region),
      peer_(std::move(peer)),
      timeout_(timeout),
      connected_(std::move(connected)),
      connect_deadline_(std::chrono::steady_clock::now() + timeout) {}

Endpoint::~Endpoint() = default;

Status Endpoint::open(fi_info& info) {
  chunk_bytes_ = std::min<uint64_t>(info.ep_attr->max_msg_size, kChunkBytes);
  window_ = std::clamp<uint64_t>(info.tx_attr->size, 1, kWindowChunks);
  write_completion_ =
      provider_.info->tx_attr->op_flags & (FI_DELIVERY_COMPLETE | FI_TRANSMIT_COMPLETE);
  fi_cq_attr attributes{};
  attributes.size = kWindowChunks * 2;
  attributes.format = FI_CQ_FORMAT_CONTEXT;
  attributes.wait_obj = FI_WAIT_FD;
  fid_cq* queue = nullptr;
  if (int status = fi_cq_open(provider_.domain.get(), &attributes, &queue, nullptr))
    return fail(fabric_error(ErrorCode::kFabricLost, "fi_cq_open", status));
  queue_.reset(queue);
  fid_ep* ep = nullptr;
  if (int status = fi_endpoint(provider_.domain.get(), &info, &ep, nullptr))
    return fail(fabric_error(ErrorCode::kFabricLost, "fi_endpoint", status));
  ep_.reset(ep);
  if (int status = fi_ep_bind(ep, &provider_.events->fid, 0))
    return fail(fabric_error(ErrorCode::kFabricLost, "fi_ep_bind", status));
  if (int status = fi_ep_bind(ep, &queue->fid, FI_TRANSMIT | FI_RECV))
    return fail(fabric_error(ErrorCode::kFabricLost, "fi_ep_bind", status));
  if (int status = fi_enable(ep))
    return fail(fabric_error(ErrorCode::kFabricLost, "fi_enable", status));
  return {};
}

Status Endpoint::connect(const fi_info& info, const Greeting& greeting) {
  if (int status = fi_connect(ep_.get(), info.dest_addr, &greeting, sizeof greeting))
    return fail(fabric_error(ErrorCode::kFabricLost, "fi_connect", status));
  return {};
}

Status Endpoint::accept(const Greeting& greeting) {
  if (int status = fi_accept(ep_.get(), &greeting, sizeof greeting))
    return fail(fabric_error(ErrorCode::kFabricLost, "fi_accept", status));
  return {};
}

void Endpoint::on_connected() {
  if (auto connected = std::exchange(connected_, nullptr)) connected(Status());
}

bool Endpoint::reserve() {
  if (under_way_.fetch_add(1) < kMaxOperations) return true;
  under_way_.fetch_sub(1);
  return false;
}

void Endpoint::start(Operation operation) {
  if (lost()) {
    finish(std::move(operation),
           fail(ErrorCode::kFabricLost, fmt::format("the link to {} is lost", peer_)));
    return;
  }
  if (operation.length == 0) {
    finish(std::move(operation), Status());
    return;
  }
  operations_.push_back(std::move(operation));
  if (next_ == operations_.end()) next_ = std::prev(operations_.end());
}

bool Endpoint::progress(TimePoint now) {
  if (lost()) return false;
  bool moved = read_completions();
  if (!lost()) moved |= post_chunks();
  if (lost()) return true;
  const bool late = !operations_.empty() && now >= operations_.front().deadline;
  if (late || (connected_ && now >= connect_deadline_)) {
    lose({ErrorCode::kFabricTimeout,
          fmt::format("no answer from {} within {} ms", peer_, timeout_.count())});
    return true;
  }
  return moved;
}

TimePoint Endpoint::wake_at() const {
  if (retry_) return std::chrono::steady_clock::now() + kRetryAfter;
  if (connected_) return connect_deadline_;
  return operations_.empty() ? TimePoint::max() : operations_.front().deadline;
}

bool Endpoint::read_completions() {
  std::array<fi_cq_entry, 16> entries;
  const ssize_t count = fi_cq_read(queue_.get(), entries.data(), entries.size());
  if (count == -FI_EAGAIN) return false;
  if (count == -FI_EAVAIL) return read_error();
  if (count < 0) {
    lose(fabric_error(ErrorCode::kFabricLost, "fi_cq_read", count));
    return true;
  }
  for (ssize_t i = 0; i < count; ++i) {
    auto* operation = static_cast<Operation*>(entries[i].op_context);
    if (operation == nullptr) continue;  // a peer's copy into our region
    --chunks_under_way_;
    if (--operation->chunks > 0 || operation->posted < operation->length) continue;
    const auto it = std::find_if(operations_.begin(), operations_.end(),
                                 [&](const Operation& known) { return &known == operation; });
    Operation finished = std::move(*it);
    operations_.erase(it);
    finish(std::move(finished), Status());
  }
  return count > 0;
}

bool Endpoint::read_error() {
  fi_cq_err_entry error{};
  if (fi_cq_readerr(queue_.get(), &error, 0) < 0) return false;
  lose({ErrorCode::kFabricLost,
        fmt::format("copying to or from {}: {}", peer_, fi_strerror(error.err))});
  return true;
}

bool Endpoint::post_chunks() {
  bool moved = false;
  retry_ = false;
  while (next_ != operations_.end() && chunks_under_way_ < window_) {
    const uint64_t length = std::min(chunk_bytes_, next_->length - next_->posted);
    const int64_t status = post(*next_, length);
    if (status == -FI_EAGAIN) {
      retry_ = true;
      break;
    }
    if (status != 0) {
      lose(fabric_error(ErrorCode::kFabricLost, "posting a copy", status));
      return true;
    }
    moved = true;
    next_->posted += length;
    ++next_->chunks;
    ++chunks_under_way_;
    if (next_->posted == next_->length) ++next_;
  }
  return moved;
}

int64_t Endpoint::post(Operation& operation, uint64_t length) {
  std::byte* local = region_.data() + operation.local_offset + operation.posted;
  const uint64_t remote = remote_.base + operation.remote_offset + operation.posted;
  void* descriptor = fi_mr_desc(provider_.region.get());
  const iovec ours{local, length};
  const fi_rma_iov theirs{remote, length, remote_.key};
  fi_msg_rma message{&ours, &descriptor, 1, 0, &theirs, 1, &operation, 0};
  // The endpoint's default flags are not enough: tcp honours delivery only per message.
  if (operation.direction == Direction::kWrite)
    return fi_writemsg(ep_.get(), &message, FI_COMPLETION | write_completion_);
  return fi_readmsg(ep_.get(), &message, FI_COMPLETION);
}

void Endpoint::finish(Operation operation, Status status) {
  operation.done(std::move(status));
  under_way_.fetch_sub(1);
}

void Endpoint::lose(Error reason) {
  if (lost_.exchange(true)) return;
  if (ep_) fi_shutdown(ep_.get(), 0);
  ep_.reset();
  queue_.reset();
  if (auto connected = std::exchange(connected_, nullptr)) connected(fail(reason));
  const TimePoint now = std::chrono::steady_clock::now();
  next_ = operations_.end();
  while (!operations_.empty()) {
    Operation operation = std::move(operations_.front());
    operations_.pop_front();
    const bool late = now >= operation.deadline;
    finish(std::move(operation),
           fail(late ? ErrorCode::kFabricTimeout : ErrorCode::kFabricLost, reason.message));
  }
}

}  // namespace holdfast::storage
