// Running our programs in a test: arguments, environment and signals in, exit code and output out.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace holdfast::test {

struct Ended {
  int code = -1;  // -signal when a signal ended it
  std::string output;
};

class Program {
 public:
  // stdout and stderr go to the file `output`. `environment` is added to ours.
  Program(const std::string& name, std::vector<std::string> arguments,
          std::filesystem::path output, const std::vector<std::string>& environment = {})
      : output_(std::move(output)) {
    const std::string path = std::string(HOLDFAST_PROGRAMS) + "/" + name;
    arguments.insert(arguments.begin(), path);
    std::vector<std::string> all = environment;
    for (char** one = environ; *one != nullptr; ++one) all.emplace_back(*one);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, output_.c_str(), O_WRONLY | O_CREAT | O_TRUNC,
                                     0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    const int failed = ::posix_spawn(&pid_, path.c_str(), &actions, nullptr,
                                     pointers(arguments).data(), pointers(all).data());
    posix_spawn_file_actions_destroy(&actions);
    EXPECT_EQ(failed, 0) << path;
    if (failed != 0) pid_ = 0;
  }
  ~Program() {
    if (pid_ == 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void signal(int number) const { ::kill(pid_, number); }

  // Fails the test when it has not ended in time.
  Ended wait(int limit_ms = 30'000) {
    Ended ended;
    if (pid_ == 0) return ended;
    const int fd = static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0));
    pollfd poll{fd, POLLIN, 0};
    if (::poll(&poll, 1, limit_ms) == 1) {
      int status = 0;
      ::waitpid(pid_, &status, 0);
      pid_ = 0;
      ended.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    } else {
      ADD_FAILURE() << "did not end within " << limit_ms << " ms";
    }
    ::close(fd);
    std::ifstream in(output_, std::ios::binary);
    ended.output.assign(std::istreambuf_iterator<char>(in), {});
    return ended;
  }

 private:
  static std::vector<char*> pointers(std::vector<std::string>& words) {
    std::vector<char*> all;
    for (std::string& word : words) all.push_back(word.data());
    all.push_back(nullptr);
    return all;
  }

  const std::filesystem::path output_;
  pid_t pid_ = 0;
};

// A folder for one test.
class Folder {
 public:
  explicit Folder(const std::string& below = std::filesystem::temp_directory_path().string()) {
    std::string name = below + "/holdfast-test-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "mkdtemp failed: " << name;
    path_ = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::filesystem::path write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return path_ / name;
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace holdfast::test
