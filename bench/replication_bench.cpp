// How fast blocks reach another process, and come from there: RMA writes and reads of 1 MiB through
// storage/fabric against a plain TCP stream over the same loopback, in turns, in one run.
//   replication_bench [--rounds N] [--mib N] [--commit HEX] [--out FILE]
#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/mutex.h"
#include "bench/record.h"
#include "storage/fabric/fabric.h"

namespace {

using holdfast::CondVar;
using holdfast::Mutex;
using holdfast::MutexLock;
using holdfast::Status;
using namespace holdfast::storage;

constexpr size_t kBlock = 1 << 20;
constexpr size_t kBlocks = 64;  // of the region: copies go round it
constexpr size_t kUnderWay = 16;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

bool receive_all(int socket, std::byte* to, size_t length) {
  while (length > 0) {
    const ssize_t got = recv(socket, to, length, 0);
    if (got <= 0) return false;
    to += got;
    length -= static_cast<size_t>(got);
  }
  return true;
}

void send_all(int socket, const std::byte* from, size_t length) {
  while (length > 0) {
    const ssize_t sent = send(socket, from, length, MSG_NOSIGNAL);
    CHECK(sent > 0, "send: {}", std::strerror(errno));
    from += sent;
    length -= static_cast<size_t>(sent);
  }
}

// The other process: serves a region, and takes a stream in rounds of a length sent first.
int serve() {
  std::vector<std::byte> region(kBlock * kBlocks);
  auto fabric = open_libfabric({"tcp", "127.0.0.1", 0, 30'000}, region);
  CHECK(fabric, "{}", fabric.error().to_string());
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  CHECK(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  CHECK(listen(listener, 1) == 0);
  CHECK(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) == 0);
  std::printf("%d %s\n", ntohs(address.sin_port), (*fabric)->address().c_str());
  std::fflush(stdout);
  const int stream = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  CHECK(stream >= 0, "accept: {}", std::strerror(errno));
  uint64_t blocks = 0;
  while (receive_all(stream, reinterpret_cast<std::byte*>(&blocks), sizeof blocks)) {
    for (uint64_t i = 0; i < blocks; ++i)
      if (!receive_all(stream, region.data() + i % kBlocks * kBlock, kBlock)) return 1;
    send_all(stream, region.data(), 1);
  }
  return 0;
}

struct Peer {
  pid_t pid = -1;
  int port = 0;
  FabricAddress address;
};

Peer start_peer() {
  int out[2];
  CHECK(pipe2(out, O_CLOEXEC) == 0);
  Peer peer;
  peer.pid = fork();
  if (peer.pid == 0) {
    dup2(out[1], STDOUT_FILENO);
    execl("/proc/self/exe", "replication_bench", "--serve", nullptr);
    _exit(127);
  }
  ::close(out[1]);
  FILE* lines = fdopen(out[0], "r");
  char address[512];
  CHECK(std::fscanf(lines, "%d %511s", &peer.port, address) == 2, "the peer did not start");
  peer.address = address;
  std::fclose(lines);
  return peer;
}

int connect_stream(int port) {
  const int stream = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  CHECK(connect(stream, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  const int on = 1;
  setsockopt(stream, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return stream;
}

double stream_blocks(int stream, std::vector<std::byte>& region, uint64_t blocks) {
  const auto start = std::chrono::steady_clock::now();
  send_all(stream, reinterpret_cast<const std::byte*>(&blocks), sizeof blocks);
  for (uint64_t i = 0; i < blocks; ++i)
    send_all(stream, region.data() + i % kBlocks * kBlock, kBlock);
  std::byte answer;
  CHECK(receive_all(stream, &answer, 1), "the peer has gone");
  return static_cast<double>(blocks * kBlock) / seconds_since(start);
}

// kUnderWay copies at a time; each completion starts the next one.
class Copier {
 public:
  Copier(Channel& channel, bool reads, uint64_t blocks)
      : channel_(channel), reads_(reads), blocks_(blocks) {}
  double run() {
    const auto start = std::chrono::steady_clock::now();
    for (uint64_t i = 0; i < std::min<uint64_t>(kUnderWay, blocks_); ++i) next();
    const MutexLock lock(mutex_);
    while (done_ < blocks_) changed_.wait(mutex_);
    return static_cast<double>(blocks_ * kBlock) / seconds_since(start);
  }

 private:
  void next() {
    uint64_t offset = 0;
    {
      const MutexLock lock(mutex_);
      if (started_ == blocks_) return;
      offset = started_++ % kBlocks * kBlock;
    }
    const auto done = [this](const Status& status) {
      CHECK(status, "{}", status.error().to_string());
      next();
      const MutexLock lock(mutex_);
      if (++done_ == blocks_) changed_.notify_all();
    };
    if (reads_) {
      channel_.read(offset, offset, kBlock, done);
    } else {
      channel_.write(offset, offset, kBlock, done);
    }
  }

  Channel& channel_;
  const bool reads_;
  const uint64_t blocks_;
  Mutex mutex_;
  CondVar changed_;
  uint64_t started_ GUARDED_BY(mutex_) = 0;
  uint64_t done_ GUARDED_BY(mutex_) = 0;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::string measure(int rounds, uint64_t blocks, const std::string& commit) {
  const Peer peer = start_peer();
  std::vector<std::byte> region(kBlock * kBlocks, std::byte{7});
  std::vector<double> fabric_rates, read_rates, stream_rates, ratios, read_ratios;
  {
    auto fabric = open_libfabric({"tcp", "127.0.0.1", 0, 30'000}, region);
    CHECK(fabric, "{}", fabric.error().to_string());
    auto channel = (*fabric)->connect(peer.address);
    CHECK(channel, "{}", channel.error().to_string());
    const int stream = connect_stream(peer.port);
    for (int round = -1; round < rounds; ++round) {  // the first warms both up
      // Who goes first alternates: other load on the machine then favours neither.
      double by_fabric = 0;
      if (round % 2 == 0) by_fabric = Copier(**channel, false, blocks).run();
      const double by_stream = stream_blocks(stream, region, blocks);
      if (round % 2 != 0) by_fabric = Copier(**channel, false, blocks).run();
      const double by_reads = Copier(**channel, true, blocks).run();
      if (round < 0) continue;
      fabric_rates.push_back(by_fabric / 1e9);
      read_rates.push_back(by_reads / 1e9);
      read_ratios.push_back(by_reads / by_stream);
      stream_rates.push_back(by_stream / 1e9);
      ratios.push_back(by_fabric / by_stream);
    }
    ::close(stream);
  }
  waitpid(peer.pid, nullptr, 0);
  return fmt::format(
      "{{\"bench\": \"replication\", \"origin\": {},\n \"provider\": \"tcp\", "
      "\"block_bytes\": {}, \"round_bytes\": {}, "
      "\"rounds\": {},\n \"fabric_gb_per_s\": [{:.3f}],\n \"fabric_read_gb_per_s\": [{:.3f}],\n"
      " \"tcp_stream_gb_per_s\": [{:.3f}],\n \"median_fabric_gb_per_s\": {:.3f}, "
      "\"median_fabric_read_gb_per_s\": {:.3f}, \"median_tcp_stream_gb_per_s\": {:.3f},\n"
      " \"ratio\": {:.3f}, \"read_ratio\": {:.3f}, \"target\": 0.8}}\n",
      boost::json::serialize(holdfast::bench::origin(commit)), kBlock, blocks * kBlock, rounds,
      fmt::join(fabric_rates, ", "), fmt::join(read_rates, ", "),
      fmt::join(stream_rates, ", "), median(fabric_rates), median(read_rates),
      median(stream_rates), median(ratios), median(read_ratios));
}

int failed(const holdfast::Error& error) {
  fmt::print(stderr, "replication_bench: {}\n", error.to_string());
  return holdfast::error_row(error.code).exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  setenv("IPATH_NO_BACKTRACE", "1", 1);
  CLI::App app("Bandwidth of block replication against plain TCP");
  std::string out, commit;
  int rounds = 9;
  uint64_t mib = 1024;
  bool serves = false;
  app.add_option("--out", out, "also write the result to this file");
  app.add_option("--commit", commit, "that this was built from, for the record")
      ->check(holdfast::bench::commit_complaint);
  app.add_option("--rounds", rounds, "measured rounds of each kind")->check(CLI::Range(1, 1000));
  app.add_option("--mib", mib, "MiB a round")->check(CLI::Range(1, 1 << 20));
  app.add_flag("--serve", serves, "be the receiving process (started by the bench itself)");
  CLI11_PARSE(app, argc, argv);
  if (serves) return serve();
  if (const Status ready = holdfast::bench::can_write(out); !ready) return failed(ready.error());
  const std::string result = measure(rounds, mib, commit);
  std::fputs(result.c_str(), stdout);
  const Status written = holdfast::bench::write_result(out, result);
  if (!written) return failed(written.error());
  return 0;
}
