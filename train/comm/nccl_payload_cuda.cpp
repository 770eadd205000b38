#include <fmt/format.h>

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/check.h"
#include "train/comm/lane_devices.h"
#include "train/comm/nccl_introduction_cuda.h"
#include "train/comm/nccl_link_cuda.h"
#include "train/comm/nccl_payload.h"
#include "train/kernels/ops_cuda.h"

namespace holdfast::train {

struct NcclPayload::Impl {
  kernels::Cuda& cuda;
  NcclLink link;
  uint64_t sent_bytes = 0;
};

NcclPayload::NcclPayload(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {
  impl_->cuda.on_finish(this, [this] { return impl_->link.finished(); });
}
NcclPayload::~NcclPayload() { impl_->cuda.on_finish(this, {}); }

Status NcclPayload::all_to_all(const std::byte* send, std::span<const size_t> send_bytes,
                               std::byte* recv, std::span<const size_t> recv_bytes) {
  const uint32_t rank = impl_->link.rank(), size = impl_->link.size();
  CHECK(send_bytes.size() == size && recv_bytes.size() == size &&
        send_bytes[rank] == recv_bytes[rank]);
  RETURN_IF_ERROR(impl_->link.verdict());
  std::vector<NcclTransfer> transfers;
  for (uint32_t r = 0; r < size; ++r) {
    if (r == rank)
      kernels::copy_bytes(impl_->cuda, send, send_bytes[r], recv);
    else if (send_bytes[r] > 0)
      transfers.push_back({.peer = r, .send = send, .bytes = send_bytes[r]});
    if (r != rank && recv_bytes[r] > 0)
      transfers.push_back({.peer = r, .recv = recv, .bytes = recv_bytes[r]});
    send += send_bytes[r];
    recv += recv_bytes[r];
  }
  if (!transfers.empty()) RETURN_IF_ERROR(impl_->link.exchange(transfers));
  impl_->sent_bytes += PayloadExchange::total(send_bytes) - send_bytes[rank];
  return impl_->cuda.check();
}
uint64_t NcclPayload::sent_bytes() const { return impl_->sent_bytes; }
void NcclPayload::abandon() { impl_->link.abandon(); }

namespace {

// What every rank tells all others; the id counts from rank 0.
struct Introduction {
  LaneDevice device;
  ncclUniqueId id{};
};
static_assert(sizeof(Introduction) == sizeof(LaneDevice) + NCCL_UNIQUE_ID_BYTES &&
              std::is_trivially_copyable_v<Introduction>);

}  // namespace

Result<NcclConnection> connect_nccl(kernels::Cuda& cuda, Teardowns& aborts, Communicator& comm,
                                    NcclOptions options) {
  if (comm.size() == 1) return NcclConnection{};  // has nobody to exchange with
  const Result<const Nccl*> nccl = load_nccl();
  Introduction mine;
  ASSIGN_OR_RETURN(mine.device, lane_device(cuda, nccl));
  if (comm.rank() == 0) make_nccl_id(nccl, mine.id, mine.device);
  ASSIGN_OR_RETURN(const std::vector<Introduction> all, exchange_introductions(comm, mine));
  std::vector<LaneDevice> devices;
  for (const Introduction& one : all) devices.push_back(one.device);
  if (const auto why = why_not_nccl(devices))
    return NcclConnection{nullptr, through_host_memory(*why, nccl)};
  auto impl = std::unique_ptr<NcclPayload::Impl>(new NcclPayload::Impl{
      cuda, {cuda, **nccl, aborts, {.rank = comm.rank(), .size = comm.size()}, std::move(options)}});
  RETURN_IF_ERROR(impl->link.connect(all[0].id));
  return NcclConnection{std::make_unique<NcclPayload>(std::move(impl)),
                        fmt::format("payload goes from device to device by NCCL {}",
                                    nccl_version_text((*nccl)->version))};
}

}  // namespace holdfast::train
