#include <fmt/format.h>

#include <chrono>
#include <optional>
#include <utility>

#include "base/check.h"
#include "train/comm/nccl_channel_cuda.h"
#include "train/comm/nccl_hand_over.h"
#include "train/comm/nccl_introduction_cuda.h"

namespace holdfast::train {
namespace {

// The longest that a sender waits for its receiver to come: as long as the view lasts.
constexpr int64_t kAsLongAsItTakesMs = int64_t{365} * 24 * 3600 * 1000;

// Stages by the member that is lane 0 of each.
struct Stages {
  const std::vector<uint32_t>& first;
  uint32_t members;

  uint32_t count() const { return static_cast<uint32_t>(first.size()); }
  uint32_t end(uint32_t stage) const { return stage + 1 < count() ? first[stage + 1] : members; }
  uint32_t of(uint32_t member) const {
    uint32_t stage = 0;
    while (end(stage) <= member) ++stage;
    return stage;
  }
  ChannelMembers between(uint32_t sender, uint32_t receiver) const {
    return {first[sender], end(sender) - first[sender], first[receiver],
            end(receiver) - first[receiver]};
  }
};

// A channel's line, one a pair of stages and direction.
uint32_t line_number(uint32_t sender, uint32_t receiver) {
  return sender < receiver ? 2 * sender : 2 * receiver + 1;
}

// The ids are of the channels on which a stage sends, made by its lane 0.
struct Introduction {
  LaneDevice device;
  ncclUniqueId up{}, down{};
};

}  // namespace

struct NcclHandOver::Impl {
  kernels::Cuda& cuda;
  Teardowns& aborts;
  const std::vector<uint32_t> first;
  const uint32_t self, members;
  // To and from the stage before (0) and after (1), where there are such.
  std::optional<NcclSender> senders[2];
  std::optional<NcclReceiver> receivers[2];

  Stages stages() const { return {first, members}; }
  size_t side(uint32_t peer) const { return stages().of(peer) < stages().of(self) ? 0 : 1; }
  Status connect(const Nccl& nccl, ViewCommunicator& view, const std::vector<Introduction>& all,
                 const NcclOptions& options);
  Status connect_channel(const Nccl& nccl, ViewCommunicator& view,
                         const std::vector<Introduction>& all, const NcclOptions& options,
                         uint32_t sender, uint32_t receiver);
  // Of all channels: what broke one, and only else that one was given up.
  Status verdict();
  // As verdict(); what is broken is idle, too.
  Status finished();
  Status idle();
  void abandon();
};

Status NcclHandOver::Impl::connect_channel(const Nccl& nccl, ViewCommunicator& view,
                                           const std::vector<Introduction>& all,
                                           const NcclOptions& options, uint32_t sender,
                                           uint32_t receiver) {
  const Introduction& maker = all[first[sender]];
  const ncclUniqueId& id = sender < receiver ? maker.up : maker.down;
  const ChannelMembers channel = stages().between(sender, receiver);
  const bool sends = stages().of(self) == sender;
  auto line = view.line(line_number(sender, receiver),
                        sends ? kAsLongAsItTakesMs : options.collective_ms);
  const size_t where = side(first[sends ? receiver : sender]);
  if (sends)
    return senders[where]
        .emplace(cuda, nccl, aborts, channel, self, std::move(line), options)
        .connect(id);
  return receivers[where]
      .emplace(cuda, nccl, aborts, channel, self, std::move(line), options)
      .connect(id);
}

// Every other pair of stages first, then the pairs between them: so nobody waits for a chain of others.
Status NcclHandOver::Impl::connect(const Nccl& nccl, ViewCommunicator& view,
                                   const std::vector<Introduction>& all,
                                   const NcclOptions& options) {
  const uint32_t mine = stages().of(self);
  for (const uint32_t turn : {0U, 1U}) {
    const uint32_t upper = mine % 2 == turn ? mine + 1 : mine;
    if (upper == 0 || upper == stages().count()) continue;
    RETURN_IF_ERROR(connect_channel(nccl, view, all, options, upper - 1, upper));
    RETURN_IF_ERROR(connect_channel(nccl, view, all, options, upper, upper - 1));
  }
  return {};
}

Status NcclHandOver::Impl::verdict() {
  Status worst;
  const auto ask = [&](auto& channel) {
    if (!channel || (!worst && worst.error().code != ErrorCode::kCommAborted)) return;
    if (Status one = channel->verdict(); !one) worst = std::move(one);
  };
  for (auto& sender : senders) ask(sender);
  for (auto& receiver : receivers) ask(receiver);
  return worst;
}

Status NcclHandOver::Impl::finished() {
  Status broken = verdict();
  if (!broken) RETURN_IF_ERROR(idle());
  return broken;
}

Status NcclHandOver::Impl::idle() {
  for (auto& sender : senders)
    if (sender) RETURN_IF_ERROR(sender->idle());
  for (auto& receiver : receivers)
    if (receiver) RETURN_IF_ERROR(receiver->idle());
  return {};
}

void NcclHandOver::Impl::abandon() {
  for (auto& sender : senders)
    if (sender) sender->abandon();
  for (auto& receiver : receivers)
    if (receiver) receiver->abandon();
}

NcclHandOver::NcclHandOver(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {
  impl_->cuda.on_finish(this, [this] { return impl_->finished(); });
}
NcclHandOver::~NcclHandOver() {
  impl_->cuda.on_finish(this, {});
  impl_->abandon();  // all, before the first waits for the device
  static_cast<void>(impl_->idle());  // before the first frees what another may still write to
}

Status NcclHandOver::send(uint32_t to, const std::byte* from, size_t bytes) {
  auto& sender = impl_->senders[impl_->side(to)];
  CHECK(sender.has_value(), "member {} is of no neighbouring stage", to);
  return sender->send(to, from, bytes);
}
Result<const std::byte*> NcclHandOver::receive(uint32_t from, size_t bytes) {
  auto& receiver = impl_->receivers[impl_->side(from)];
  CHECK(receiver.has_value(), "member {} is of no neighbouring stage", from);
  return receiver->receive(from, bytes);
}
Status NcclHandOver::flush() {
  for (auto& sender : impl_->senders)
    if (sender) RETURN_IF_ERROR(sender->flush());
  return {};
}
Status NcclHandOver::flush_older() {
  for (auto& sender : impl_->senders)
    if (sender) RETURN_IF_ERROR(sender->flush_older());
  return {};
}
void NcclHandOver::abandon() { impl_->abandon(); }

Result<HandOverConnection> connect_stages(kernels::Cuda& cuda, Teardowns& aborts,
                                          ViewCommunicator& view,
                                          const std::vector<uint32_t>& first, NcclOptions options) {
  CHECK(first.size() > 1 && first.back() < view.size());
  const Result<const Nccl*> nccl = load_nccl();
  Introduction mine;
  ASSIGN_OR_RETURN(mine.device, lane_device(cuda, nccl));
  const Stages stages{first, view.size()};
  if (first[stages.of(view.rank())] == view.rank()) {
    make_nccl_id(nccl, mine.up, mine.device);
    make_nccl_id(nccl, mine.down, mine.device);
  }
  ASSIGN_OR_RETURN(const std::vector<Introduction> all, exchange_introductions(view, mine));
  std::vector<LaneDevice> devices;
  for (const Introduction& one : all) devices.push_back(one.device);
  if (const auto why = why_not_nccl(devices))
    return HandOverConnection{nullptr, through_host_memory(*why, nccl)};
  auto impl = std::unique_ptr<NcclHandOver::Impl>(
      new NcclHandOver::Impl{cuda, aborts, first, view.rank(), view.size(), {}, {}});
  RETURN_IF_ERROR(impl->connect(**nccl, view, all, options));
  return HandOverConnection{std::make_unique<NcclHandOver>(std::move(impl)),
                            fmt::format("payload goes from device to device by NCCL {}",
                                        nccl_version_text((*nccl)->version))};
}

}  // namespace holdfast::train
