#include "daemon/service/control_server.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <fstream>

#include "base/json.h"

namespace holdfast::daemon {
namespace {

// How often a follower asks for new events; people do not see the difference to a push.
constexpr auto kFollowEvery = std::chrono::milliseconds(100);
constexpr uint64_t kMaxLogLines = 100'000;
constexpr std::streamoff kMaxLogBytes = std::streamoff{8} << 20;

std::vector<std::string> last_lines(const std::filesystem::path& file, uint64_t count) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in) return {};
  const std::streamoff size = in.tellg();
  in.seekg(std::max<std::streamoff>(0, size - kMaxLogBytes));
  std::deque<std::string> lines;
  for (std::string line; std::getline(in, line);) {
    lines.push_back(std::move(line));
    if (lines.size() > count) lines.pop_front();
  }
  return {lines.begin(), lines.end()};
}

// Sends events as they come, one a line, until the client goes away.
class Follower : public std::enable_shared_from_this<Follower> {
 public:
  Follower(const ControlServerPorts& ports, std::shared_ptr<HttpReply> reply, HttpRequest request,
           uint64_t since, uint64_t limit)
      : ports_(ports),
        timer_(ports.io),
        reply_(std::move(reply)),
        request_(std::move(request)),
        next_(since),
        limit_(limit) {}

  void ask() {
    if (reply_->closed()) return;
    request_.target = fmt::format("/v1/events?since={}&limit={}", next_, limit_);
    ports_.cluster(request_, [self = shared_from_this()](Result<std::string> answer) {
      self->take(std::move(answer));
    });
  }

 private:
  void take(Result<std::string> answer) {
    if (!begun_) {
      // Before the first line an error is still an error.
      if (!answer) return send_json(*reply_, answer);
      reply_->begin_stream(kJsonLinesType);
      begun_ = true;
    }
    // Later the coordinator may be away for a while: the stream goes on when it is back.
    if (answer) {
      auto events = from_json_text<std::vector<EventRecord>>(*answer, "events");
      if (!events) return reply_->end();
      for (const EventRecord& event : *events) {
        reply_->write(to_json_text(event));
        next_ = event.sequence + 1;
      }
      next_ = std::max<uint64_t>(next_, 1);  // since 0 means the newest ones
    }
    timer_.expires_after(kFollowEvery);
    timer_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
      if (!error) self->ask();
    });
  }

  const ControlServerPorts& ports_;
  boost::asio::steady_timer timer_;
  const std::shared_ptr<HttpReply> reply_;
  HttpRequest request_;
  uint64_t next_;
  const uint64_t limit_;
  bool begun_ = false;
};

}  // namespace

class ControlServer::Impl : public std::enable_shared_from_this<ControlServer::Impl> {
 public:
  explicit Impl(ControlServerPorts ports) : ports_(std::move(ports)) {}

  void handle(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
    const std::string path(request.path());
    if (request.method == "GET") {
      if (path == "/v1/status") return status(request, reply);
      if (path == "/v1/snapshots") return send_json(*reply, to_json_text(ports_.snapshots()));
      if (path.starts_with("/v1/snapshots/"))
        return ports_.shards(request, [reply](const Result<std::string>& answer) {
          send_json(*reply, answer);
        });
      if (path == "/metrics")
        return reply->send(200, "text/plain; version=0.0.4", ports_.metrics());
      if (path.starts_with("/v1/jobs/") && path.ends_with("/logs")) return logs(request, *reply);
      if (path == "/v1/events" && request.query("follow") == "1") return follow(request, reply);
    }
    ports_.cluster(request, [reply](const Result<std::string>& answer) {
      send_json(*reply, answer);
    });
  }

  std::unique_ptr<HttpServer> server;

 private:
  // This node's part is told even when nobody else can be asked.
  void status(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
    ports_.cluster(request, [self = shared_from_this(), reply](const Result<std::string>& answer) {
      api::Status status;
      status.local = self->ports_.local_status();
      if (answer) {
        auto cluster = from_json_text<api::Status>(*answer, "status of the cluster");
        if (!cluster) return send_json(*reply, tl::unexpected(cluster.error()));
        status.nodes_up = cluster->nodes_up;
        status.nodes_known = cluster->nodes_known;
        status.phase = cluster->phase;
        status.job = cluster->job;
        status.local.epoch = cluster->local.epoch;
      }
      status.local.coordinator_reachable = answer.has_value();
      send_json(*reply, to_json_text(status));
    });
  }

  void logs(const HttpRequest& request, HttpReply& reply) {
    auto count = query_number(request, "lines", 100);
    if (!count) return send_json(reply, tl::unexpected(count.error()));
    std::vector<std::string> all;
    for (uint32_t slot = 0; slot < ports_.slots; ++slot) {
      auto lines = last_lines(ports_.log_folder / fmt::format("worker-{}.log", slot),
                              std::min(*count, kMaxLogLines));
      all.insert(all.end(), lines.begin(), lines.end());
    }
    send_json(reply, to_json_text(all));
  }

  void follow(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
    auto since = query_number(request, "since", 0);
    auto limit = query_number(request, "limit", 100);
    if (!since) return send_json(*reply, tl::unexpected(since.error()));
    if (!limit) return send_json(*reply, tl::unexpected(limit.error()));
    std::make_shared<Follower>(ports_, reply, request, *since, std::max<uint64_t>(*limit, 1))
        ->ask();
  }

  const ControlServerPorts ports_;
};

Result<std::unique_ptr<ControlServer>> ControlServer::listen(const std::filesystem::path& socket,
                                                             ControlServerPorts ports) {
  boost::asio::io_context& io = ports.io;
  auto impl = std::make_shared<Impl>(std::move(ports));
  auto server = HttpServer::on_unix(
      io, socket, {}, [weak = std::weak_ptr<Impl>(impl)](const HttpRequest& request,
                                                         const std::shared_ptr<HttpReply>& reply) {
        if (auto self = weak.lock()) self->handle(request, reply);
      });
  if (!server) return tl::unexpected(server.error());
  impl->server = std::move(*server);
  return std::unique_ptr<ControlServer>(new ControlServer(std::move(impl)));
}

ControlServer::ControlServer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
ControlServer::~ControlServer() { impl_->server.reset(); }

}  // namespace holdfast::daemon
