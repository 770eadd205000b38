// The libfabric implementation of Fabric and Channel: checks ranges, hands the rest to the progress
// thread.
#include <fmt/format.h>

#include "base/check.h"
#include "storage/fabric/fabric.h"
#include "storage/fabric/progress.h"
#include "storage/fabric/range.h"

namespace holdfast::storage {
namespace {

class LibfabricChannel final : public Channel {
 public:
  LibfabricChannel(std::shared_ptr<Progress> progress, std::shared_ptr<Endpoint> endpoint)
      : progress_(std::move(progress)),
        endpoint_(std::move(endpoint)),
        remote_length_(endpoint_->remote_length()) {}
  ~LibfabricChannel() override { close(); }

  void write(uint64_t local_offset, uint64_t remote_offset, uint64_t length,
             FabricDone done) override {
    start(Direction::kWrite, local_offset, remote_offset, length, std::move(done));
  }
  void read(uint64_t local_offset, uint64_t remote_offset, uint64_t length,
            FabricDone done) override {
    start(Direction::kRead, local_offset, remote_offset, length, std::move(done));
  }
  bool lost() const override { return endpoint_->lost(); }
  void close() override { progress_->close(endpoint_); }

 private:
  void start(Direction direction, uint64_t local_offset, uint64_t remote_offset, uint64_t length,
             FabricDone done) {
    Status refused = check_ranges(local_offset, progress_->region_length(), remote_offset,
                                  remote_length_, length);
    Operation operation;
    operation.direction = direction;
    operation.local_offset = local_offset;
    operation.remote_offset = remote_offset;
    operation.length = length;
    operation.done = std::move(done);
    progress_->start(endpoint_, std::move(operation), std::move(refused));
  }

  std::shared_ptr<Progress> progress_;
  std::shared_ptr<Endpoint> endpoint_;
  uint64_t remote_length_;
};

class LibfabricFabric final : public Fabric {
 public:
  LibfabricFabric(std::shared_ptr<Progress> progress, FabricAddress address)
      : progress_(std::move(progress)), address_(std::move(address)) {}
  ~LibfabricFabric() override { progress_->stop(); }

  const FabricAddress& address() const override { return address_; }
  Result<std::unique_ptr<Channel>> connect(const FabricAddress& peer) override {
    ASSIGN_OR_RETURN(const PeerAddress parsed, parse_address(peer));
    if (parsed.provider != progress_->provider().name)
      return fail(ErrorCode::kFabricProtocol,
                  fmt::format("the peer at {}:{} uses provider {}, we use {}", parsed.host,
                              parsed.port, parsed.provider, progress_->provider().name));
    ASSIGN_OR_RETURN(Info info,
                     info_towards(*progress_->provider().info, parsed.host, parsed.port));
    ASSIGN_OR_RETURN(auto endpoint, progress_->connect(std::move(info), parsed));
    return std::make_unique<LibfabricChannel>(progress_, std::move(endpoint));
  }

 private:
  std::shared_ptr<Progress> progress_;
  FabricAddress address_;
};

}  // namespace

Result<std::unique_ptr<Fabric>> open_libfabric(const FabricOptions& options,
                                               std::span<std::byte> region) {
  CHECK(!region.empty(), "a fabric serves at least one byte");
  ASSIGN_OR_RETURN(auto progress, Progress::open(options, region));
  const Provider& provider = progress->provider();
  PeerAddress address{provider.name, provider.host.empty() ? options.address : provider.host,
                      provider.port, progress->region_id()};
  return std::make_unique<LibfabricFabric>(std::move(progress), format_address(address));
}

}  // namespace holdfast::storage
