// Peers in processes of their own that are killed or stopped in the middle of copies.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "base/check.h"
#include "tests/storage/fabric/fabric_test_kit.h"

namespace holdfast::storage {
namespace {

constexpr size_t kRegion = 8 << 20;
constexpr uint32_t kTimeoutMs = 500;
std::string own_path;

// Serves a region until its standard input ends: with the test, at the latest.
int serve() {
  std::vector<std::byte> region(kRegion);
  auto fabric = open_libfabric({"tcp", "127.0.0.1", 0, 5'000}, region);
  if (!fabric) return 1;
  const std::string line = (*fabric)->address() + "\n";
  if (::write(STDOUT_FILENO, line.data(), line.size()) < 0) return 1;
  char byte;
  while (::read(STDIN_FILENO, &byte, 1) > 0) {
  }
  return 0;
}

class Peer {
 public:
  Peer() {
    int in[2], out[2];
    EXPECT_EQ(pipe2(in, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(in[0], STDIN_FILENO);
      dup2(out[1], STDOUT_FILENO);
      close_range(3, ~0U, 0);  // libfabric's sockets are not close-on-exec
      execl(own_path.c_str(), own_path.c_str(), "--serve", nullptr);
      _exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    input_ = in[1];
    pollfd ready{out[0], POLLIN, 0};
    char byte;
    while (poll(&ready, 1, 10'000) == 1 && ::read(out[0], &byte, 1) == 1 && byte != '\n')
      address_ += byte;
    ::close(out[0]);
  }
  ~Peer() {
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    ::close(input_);
  }
  void signal(int number) const { ::kill(pid_, number); }
  // Returns when it stands: a signal that is on its way lets it still answer.
  void stop() const {
    ::kill(pid_, SIGSTOP);
    siginfo_t info{};
    CHECK(::waitid(P_PID, static_cast<id_t>(pid_), &info, WSTOPPED) == 0, "waitid");
  }
  const FabricAddress& address() const { return address_; }

 private:
  pid_t pid_ = -1;
  int input_ = -1;
  FabricAddress address_;
};

struct Ours {
  std::vector<std::byte> region = random_bytes(kRegion, 1);
  std::unique_ptr<Fabric> fabric;
  Ours() {
    auto opened = open_libfabric({"tcp", "127.0.0.1", 0, kTimeoutMs}, region);
    EXPECT_TRUE(opened.has_value());
    if (opened) fabric = std::move(*opened);
  }
};

TEST(FabricProcess, copies_go_to_another_process_and_come_back) {
  Ours ours;
  Peer peer;
  auto channel = ours.fabric->connect(peer.address());
  ASSERT_TRUE(channel) << channel.error().to_string();
  const auto start = Clock::now();
  ASSERT_TRUE(write_now(**channel, 0, kRegion / 2, kRegion / 2));
  ASSERT_TRUE(read_now(**channel, kRegion / 2, kRegion / 2, kRegion / 2));
  std::printf("4 MiB there and back: %.2f ms\n", ms_since(start));
  EXPECT_EQ(std::memcmp(ours.region.data(), ours.region.data() + kRegion / 2, kRegion / 2), 0);
}

TEST(FabricProcess, a_killed_peer_is_lost_within_a_second) {
  Ours ours;
  Peer peer;
  auto channel = ours.fabric->connect(peer.address());
  ASSERT_TRUE(channel) << channel.error().to_string();
  Outcomes outcomes;
  for (int i = 0; i < 300; ++i) (*channel)->write(0, 0, kRegion, outcomes.next());
  const auto start = Clock::now();
  peer.signal(SIGKILL);
  ASSERT_TRUE(outcomes.wait(std::chrono::seconds(1)));
  std::printf("killed peer: lost after %.2f ms\n", ms_since(start));
  EXPECT_GT(outcomes.count(ErrorCode::kFabricLost), 0U);
  EXPECT_EQ(outcomes.count(ErrorCode::kFabricLost) + outcomes.successes(), 300U);
  EXPECT_TRUE((*channel)->lost());
  EXPECT_FALSE(ours.fabric->connect(peer.address()));

  Peer another;
  auto anew = ours.fabric->connect(another.address());
  ASSERT_TRUE(anew) << anew.error().to_string();
  EXPECT_TRUE(write_now(**anew, 0, 0, kRegion));
}

TEST(FabricProcess, an_idle_channel_learns_that_its_peer_was_killed) {
  Ours ours;
  Peer peer;
  auto channel = ours.fabric->connect(peer.address());
  ASSERT_TRUE(channel) << channel.error().to_string();
  const auto start = Clock::now();
  peer.signal(SIGKILL);
  // Nothing reports an idle channel's loss, so it is asked for.
  while (!(*channel)->lost() && ms_since(start) < 1000) std::this_thread::yield();
  EXPECT_TRUE((*channel)->lost());
  std::printf("killed peer, idle channel: lost after %.2f ms\n", ms_since(start));
}

TEST(FabricProcess, a_stopped_peer_times_out_at_the_deadline) {
  Ours ours;
  Peer peer;
  auto channel = ours.fabric->connect(peer.address());
  ASSERT_TRUE(channel) << channel.error().to_string();
  ASSERT_TRUE(write_now(**channel, 0, 0, 1));
  peer.stop();
  Outcomes outcomes;
  const auto start = Clock::now();
  for (int i = 0; i < 4; ++i) (*channel)->write(0, 0, kRegion, outcomes.next());
  (*channel)->read(0, 0, 1, outcomes.next());
  ASSERT_TRUE(outcomes.wait());
  const double waited = ms_since(start);
  std::printf("stopped peer: given up after %.1f ms of %u\n", waited, kTimeoutMs);
  EXPECT_GE(waited, kTimeoutMs - 1.0);
  EXPECT_LT(waited, kTimeoutMs + 1000.0);
  EXPECT_GT(outcomes.count(ErrorCode::kFabricTimeout), 0U);
  EXPECT_EQ(outcomes.successes(), 0U);
  EXPECT_TRUE((*channel)->lost());

  const auto again = Clock::now();
  const auto refused = ours.fabric->connect(peer.address());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kFabricTimeout) << refused.error().to_string();
  EXPECT_LT(ms_since(again), kTimeoutMs + 1000.0);
}

}  // namespace

int run_as_peer(const char* path, bool serves) {
  own_path = path;
  return serves ? serve() : -1;
}

}  // namespace holdfast::storage

int main(int argc, char** argv) {
  const bool serves = argc > 1 && std::strcmp(argv[1], "--serve") == 0;
  const int served = holdfast::storage::run_as_peer("/proc/self/exe", serves);
  if (served >= 0) return served;
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
