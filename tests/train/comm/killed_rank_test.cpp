// Ranks as processes over Gloo: one is killed in the middle of its collectives; the others get errors
// and have a new, smaller group running.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>

#include "base/check.h"
#include "train/comm/gloo_communicator.h"

namespace holdfast::train {
namespace {

constexpr uint32_t kRanks = 4;

void send_text(int fd, const std::string& text) {
  const auto size = static_cast<uint32_t>(text.size());
  CHECK(::write(fd, &size, sizeof size) == sizeof size);
  CHECK(::write(fd, text.data(), size) == static_cast<ssize_t>(size));
}

std::string receive_text(int fd) {
  uint32_t size = 0;
  CHECK(::recv(fd, &size, sizeof size, MSG_WAITALL) == sizeof size);
  std::string text(size, '\0');
  CHECK(::recv(fd, text.data(), size, MSG_WAITALL) == static_cast<ssize_t>(size));
  return text;
}

// A rank: told its place and the size, says its address, is told all addresses, runs collectives until
// one fails, says so and begins again; ends with the connection.
[[noreturn]] void run_rank(int fd) {
  auto factory = make_gloo_factory("127.0.0.1");
  CHECK(factory.has_value());
  for (;;) {
    uint32_t place[2];
    if (::recv(fd, place, sizeof place, MSG_WAITALL) != sizeof place) _exit(0);
    send_text(fd, *(*factory)->prepare(place[0], place[1]));
    std::vector<std::string> addresses;
    for (uint32_t r = 0; r < place[1]; ++r) addresses.push_back(receive_text(fd));
    auto comm = (*factory)->connect(addresses, 10'000, 10'000);
    CHECK(comm.has_value(), "{}", comm.error().to_string());
    const std::vector<std::byte> mine(50'000);
    std::vector<std::byte> all(mine.size() * place[1]);
    const std::vector<size_t> sizes(place[1], mine.size());
    CHECK((*comm)->all_gather(mine, all, sizes).has_value());
    send_text(fd, "running");
    while ((*comm)->all_gather(mine, all, sizes)) {
    }
    send_text(fd, "broken");
  }
}

struct Rank {
  pid_t pid = 0;
  int fd = -1;
};

void form_group(std::vector<Rank>& ranks) {
  std::vector<std::string> addresses;
  for (uint32_t r = 0; r < ranks.size(); ++r) {
    const uint32_t place[2] = {r, static_cast<uint32_t>(ranks.size())};
    CHECK(::write(ranks[r].fd, place, sizeof place) == sizeof place);
  }
  for (Rank& rank : ranks) addresses.push_back(receive_text(rank.fd));
  for (Rank& rank : ranks)
    for (const std::string& address : addresses) send_text(rank.fd, address);
  for (Rank& rank : ranks) EXPECT_EQ(receive_text(rank.fd), "running");
}

TEST(KilledRank, SurvivorsNoticeAtOnceAndGoOnInASmallerGroup) {
  std::signal(SIGPIPE, SIG_IGN);
  std::vector<Rank> ranks;
  for (uint32_t r = 0; r < kRanks; ++r) {
    int pair[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    const pid_t pid = ::fork();  // no thread runs yet in this process
    if (pid == 0) {
      for (const Rank& other : ranks) ::close(other.fd);
      ::close(pair[0]);
      run_rank(pair[1]);
    }
    ::close(pair[1]);
    ranks.push_back({pid, pair[0]});
  }
  form_group(ranks);
  while (ranks.size() > 1) {
    const auto begun = std::chrono::steady_clock::now();
    const auto ms = [&] {
      return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begun)
          .count();
    };
    const Rank victim = ranks[ranks.size() / 2];
    ASSERT_EQ(::kill(victim.pid, SIGKILL), 0);
    ASSERT_EQ(::waitpid(victim.pid, nullptr, 0), victim.pid);
    ::close(victim.fd);
    ranks.erase(ranks.begin() + static_cast<std::ptrdiff_t>(ranks.size() / 2));
    if (ranks.size() == 1) break;  // alone, nobody can be lost: it would run for ever
    for (Rank& rank : ranks) EXPECT_EQ(receive_text(rank.fd), "broken");
    const double noticed = ms();
    form_group(ranks);
    std::printf("%zu ranks left: noticed after %.1f ms, running again after %.1f ms\n",
                ranks.size(), noticed, ms());
    EXPECT_LT(noticed, 1'000);
  }
  for (const Rank& rank : ranks) {
    ::kill(rank.pid, SIGKILL);
    ::waitpid(rank.pid, nullptr, 0);
    ::close(rank.fd);
  }
}

}  // namespace
}  // namespace holdfast::train
