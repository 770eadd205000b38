// The daemon as systemd sees it, and what it says when it cannot start.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <boost/json.hpp>
#include <fstream>
#include <set>

#include "daemon/control/client.h"
#include "tests/ctl/program.h"
#include "train/worker/progress_page.h"

namespace holdfast::daemon {
namespace {

using holdfast::test::Ended;
using holdfast::test::Folder;
using holdfast::test::Program;
using ::testing::HasSubstr;

// Takes a loopback port; kept open, another process is refused it.
class TakenPort {
 public:
  TakenPort() : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(fd_, 1), 0);
    socklen_t size = sizeof address;
    EXPECT_EQ(::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }
  ~TakenPort() { ::close(fd_); }
  int port() const { return port_; }

 private:
  int fd_;
  int port_ = 0;
};

// The datagram socket that systemd would listen on.
class NotifySocket {
 public:
  explicit NotifySocket(const std::filesystem::path& path)
      : fd_(::socket(AF_UNIX, SOCK_DGRAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.string().copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    const timeval limit{30, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  }
  ~NotifySocket() { ::close(fd_); }
  std::string next() const {
    char text[256];
    const ssize_t size = ::recv(fd_, text, sizeof text, 0);
    return size < 0 ? "nothing came" : std::string(text, static_cast<size_t>(size));
  }

 private:
  int fd_;
};

struct Settings {
  std::string name = "node-0";
  std::string arena_size = "4MiB";
  std::string provider = "tcp";
  std::string arena = "arena";
  std::string state = "state";
  std::string more = {};  // before the first section
};

class HoldfastdTest : public ::testing::Test {
 protected:
  HoldfastdTest()
      : memory_(std::filesystem::exists("/dev/shm") ? "/dev/shm" : "/tmp"), notify_(at("notify")) {
    const TakenPort free;
    port_ = free.port();
  }
  std::filesystem::path at(const std::string& name) const { return folder_.path() / name; }

  std::string config(const Settings& s) const {
    const std::string text = fmt::format(
        "name = \"{}\"\nstate_dir = \"{}\"\ncontrol_socket = \"{}\"\nlisten = \"127.0.0.1:{}\"\n{}\n"
        "[cluster]\nseed = \"127.0.0.1:{}\"\n"
        "[arena]\npath = \"{}\"\nsize = \"{}\"\n[fabric]\nprovider = \"{}\"\n",
        s.name, at(s.state).string(), at("control.sock").string(), port_, s.more, port_,
        (memory_.path() / s.arena).string(), s.arena_size, s.provider);
    return folder_.write("node.toml", text).string();
  }
  std::unique_ptr<Program> launch(const Settings& settings, const std::string& output = "log",
                                  std::vector<std::string> environment = {}) const {
    environment.push_back("NOTIFY_SOCKET=" + at("notify").string());
    return std::make_unique<Program>("holdfastd",
                                     std::vector<std::string>{"--config", config(settings)},
                                     at(output), environment);
  }
  // Starts a daemon, waits until it serves, and ends it again.
  void run_once(const Settings& settings) const {
    const auto daemon = launch(settings);
    ASSERT_THAT(notify_.next(), HasSubstr("READY=1"));
    daemon->signal(SIGTERM);
    ASSERT_EQ(notify_.next(), "STOPPING=1");
    const Ended ended = daemon->wait();
    ASSERT_EQ(ended.code, 0) << ended.output;
  }
  void expect_refused(const Settings& settings, int code, const std::string& says,
                      const std::string& names) const {
    const Ended ended = launch(settings, "refused")->wait();
    EXPECT_EQ(ended.code, code) << ended.output;
    EXPECT_THAT(ended.output, HasSubstr(says));
    EXPECT_THAT(ended.output, HasSubstr(names));
  }

  Folder folder_;
  Folder memory_;
  NotifySocket notify_;
  int port_ = 0;
};

TEST_F(HoldfastdTest, TellsSystemdWhenItIsReadyAliveAndStopping) {
  const auto daemon = launch({}, "log", {"WATCHDOG_USEC=100000"});
  EXPECT_THAT(notify_.next(), HasSubstr("READY=1"));
  const auto status =
      ControlClient(at("control.sock")).call("GET", "/v1/status", nullptr, 10'000);
  ASSERT_TRUE(status) << status.error().to_string();
  EXPECT_EQ(status->at("local").at("node").as_string(), "node-0");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(notify_.next(), "WATCHDOG=1");
  daemon->signal(SIGTERM);
  std::string last = notify_.next();
  while (last == "WATCHDOG=1") last = notify_.next();
  EXPECT_EQ(last, "STOPPING=1");
  EXPECT_EQ(daemon->wait().code, 0);
}

// Rows of the page's table, but for those of a running job.
std::set<std::string> documented_metrics() {
  std::ifstream page(std::filesystem::path(HOLDFAST_SOURCE_DIR) / "docs/control-api.md");
  std::set<std::string> names;
  for (std::string line; std::getline(page, line);) {
    if (!line.starts_with("| `holdfast_")) continue;
    const std::string name = line.substr(3, line.find('`', 3) - 3);
    if (line.find("| every node |") != std::string::npos ||
        line.find("| coordinator |") != std::string::npos)
      names.insert(name);
  }
  return names;
}

TEST_F(HoldfastdTest, ItsMetricsAreThoseOfTheDocumentation) {
  const auto daemon = launch({});
  ASSERT_THAT(notify_.next(), HasSubstr("READY=1"));
  std::set<std::string> told;
  const Status streamed =
      ControlClient(at("control.sock")).stream("GET", "/metrics", [&](std::string_view line) {
        if (line.starts_with("holdfast_")) told.emplace(line.substr(0, line.find(' ')));
        return true;
      });
  EXPECT_TRUE(streamed) << streamed.error().to_string();
  EXPECT_EQ(told, documented_metrics());
  EXPECT_TRUE(told.contains("holdfast_arena_granted_blocks"));
  daemon->signal(SIGTERM);
  EXPECT_EQ(daemon->wait().code, 0);
}

TEST_F(HoldfastdTest, StartsAgainOnWhatItLeft) {
  run_once({});
  run_once({});
}

TEST_F(HoldfastdTest, WhatIsWrongInItsFileIsNamed) {
  const Ended missing =
      Program("holdfastd", {"--config", at("none.toml").string()}, at("log")).wait();
  EXPECT_EQ(missing.code, 2);
  EXPECT_THAT(missing.output, HasSubstr("HF-104"));
  expect_refused({.more = "listne = \"x\""}, 2, "HF-102", "did you mean listen?");
  expect_refused({.provider = "nonsense"}, 5, "HF-501", "nonsense");
  EXPECT_EQ(Program("holdfastd", {"--confg", "x"}, at("log")).wait().code, 2);
}

TEST_F(HoldfastdTest, AnAddressThatIsNotOfThisHostIsNamedWithItsKey) {
  std::string text = "listen = \"192.0.2.7:7400\"\n[cluster]\nseed = \"192.0.2.7:7400\"\n";
  text = fmt::format(
      "name = \"node-0\"\nstate_dir = \"{}\"\ncontrol_socket = \"{}\"\n{}[arena]\npath = \"{}\"\n"
      "size = \"4MiB\"\n[fabric]\nprovider = \"tcp\"\n",
      at("state").string(), at("control.sock").string(), text, (memory_.path() / "arena").string());
  const Ended ended =
      Program("holdfastd", {"--config", folder_.write("node.toml", text).string()}, at("log")).wait();
  EXPECT_NE(ended.code, 0) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("192.0.2.7"));
  EXPECT_THAT(ended.output, HasSubstr("in node.toml"));
}

TEST_F(HoldfastdTest, WhatAnotherProgramHoldsIsNamed) {
  const auto daemon = launch({});
  ASSERT_THAT(notify_.next(), HasSubstr("READY=1"));
  expect_refused({}, 4, "HF-903", folder_.path().string());
  daemon->signal(SIGTERM);
  EXPECT_EQ(daemon->wait().code, 0);
  const TakenPort taken;
  port_ = taken.port();
  expect_refused({}, 4, "HF-903", std::to_string(port_));
}

// Stands for a worker that outlived its daemon: it holds the slot's page and is otherwise still.
class Survivor {
 public:
  explicit Survivor(const std::filesystem::path& page) {
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      const auto opened = train::ProgressPage::open(page);
      const bool claimed = opened && (*opened)->claim();
      if (claimed && ::write(ready[1], "r", 1) == 1)
        for (;;) ::pause();
      ::_exit(1);
    }
    char byte = 0;
    ::close(ready[1]);
    EXPECT_EQ(::read(ready[0], &byte, 1), 1) << "the page could not be claimed";
    ::close(ready[0]);
  }
  ~Survivor() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  bool lives() const { return ::waitpid(pid_, nullptr, WNOHANG) == 0; }
  // The signal that ended it.
  int wait() {
    const int fd = static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0));
    pollfd poll{fd, POLLIN, 0};
    const bool ended = ::poll(&poll, 1, 30'000) == 1;
    ::close(fd);
    if (!ended) return 0;
    int status = 0;
    ::waitpid(std::exchange(pid_, 0), &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  }

 private:
  pid_t pid_ = 0;
};

TEST_F(HoldfastdTest, AWorkerThatHasAnotherArenaThanItsDaemonIsKilled) {
  run_once({});
  Survivor survivor(at("state") / "worker-0.progress");
  run_once({});
  EXPECT_TRUE(survivor.lives()) << "it has this arena";
  std::filesystem::rename(memory_.path() / "arena", memory_.path() / "old");
  run_once({});
  EXPECT_EQ(survivor.wait(), SIGKILL);

  Survivor next(at("state") / "worker-0.progress");
  run_once({});
  EXPECT_TRUE(next.lives());
  std::filesystem::rename(memory_.path() / "old", memory_.path() / "arena");
  run_once({});
  EXPECT_EQ(next.wait(), SIGKILL) << "an arena that came back is another one, too";
}

TEST_F(HoldfastdTest, AnArenaThatDoesNotFitSaysSo) {
  expect_refused({.arena_size = "1024TiB"}, 8, "HF-902", memory_.path().string());
  EXPECT_TRUE(std::filesystem::is_empty(memory_.path()));
}

TEST_F(HoldfastdTest, ForeignOrDamagedMemoryIsRefusedAndKept) {
  run_once({});
  expect_refused({.name = "node-9", .state = "other"}, 7, "HF-304", "node-9");
  expect_refused({.name = "node-9", .arena = "other"}, 7, "HF-402", "node-9");
  memory_.write("garbage", std::string(8 << 20, 'x'));
  expect_refused({.arena = "garbage"}, 7, "HF-303", "garbage");
  run_once({});  // what was refused did no harm to what is right
  size_t damaged = 0;
  for (const auto& file : std::filesystem::recursive_directory_iterator(at("state")))
    if (file.path().filename() == "CURRENT") {
      std::ofstream(file.path()) << "garbage";
      ++damaged;
    }
  ASSERT_EQ(damaged, 1u);
  expect_refused({}, 7, "HF-401", at("state").string());
}

}  // namespace
}  // namespace holdfast::daemon
