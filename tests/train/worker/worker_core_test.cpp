// The worker with its threads, against a daemon made of one socket: what reaches the daemon, and in
// which order.
#include "train/worker/worker_core.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <future>

#include "base/check.h"
#include "train/comm/in_process.h"

namespace holdfast::train {
namespace {

constexpr Epoch kOne{1, 1};

// The daemon's end: one connection, blocking.
class Daemon {
 public:
  explicit Daemon(const std::filesystem::path& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    CHECK(path.string().size() < sizeof address.sun_path);
    std::copy_n(path.c_str(), path.string().size(), address.sun_path);
    listening_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(::bind(listening_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
          ::listen(listening_, 4) == 0);
  }
  ~Daemon() {
    ::close(connected_);
    ::close(listening_);
  }
  void accept() {
    CHECK(readable(listening_));
    connected_ = ::accept(listening_, nullptr, nullptr);
    CHECK(connected_ >= 0);
  }
  // False: the worker has left already.
  bool say(const ToWorker& message) {
    const std::string text = encode(message);
    const auto bytes = static_cast<uint32_t>(text.size());
    std::string frame(4, '\0');
    std::memcpy(frame.data(), &bytes, 4);
    frame += text;
    const ssize_t sent = ::send(connected_, frame.data(), frame.size(), MSG_NOSIGNAL);
    CHECK(sent == static_cast<ssize_t>(frame.size()) || errno == EPIPE || errno == ECONNRESET);
    return sent > 0;
  }
  // nullopt: the worker has closed its end.
  std::optional<FromWorker> hear() {
    uint32_t bytes = 0;
    if (!read(&bytes, sizeof bytes)) return std::nullopt;
    std::string text(bytes, '\0');
    CHECK(read(text.data(), text.size()));
    auto message = decode_from_worker(text);
    CHECK(message.has_value());
    return *message;
  }
  template <class T>
  T expect() {
    const auto message = hear();
    EXPECT_TRUE(message && std::holds_alternative<T>(*message))
        << (message ? encode(*message) : "");
    return message && std::holds_alternative<T>(*message) ? std::get<T>(*message) : T{};
  }

 private:
  static bool readable(int fd) {
    pollfd poll{fd, POLLIN, 0};
    return ::poll(&poll, 1, 20'000) == 1;
  }
  bool read(void* to, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
      CHECK(readable(connected_), "nothing is said");
      const ssize_t n = ::recv(connected_, static_cast<char*>(to) + at, bytes - at, 0);
      if (n <= 0) return false;
      at += static_cast<size_t>(n);
    }
    return true;
  }
  int listening_ = -1, connected_ = -1;
};

// A trainer of one shard whose first step fails after its version is made.
class HalfStepTrainer : public Trainer {
 public:
  std::vector<HeldShards> held() const override { return {{current_, {0}}}; }
  Status open_view(const TrainerView& view) override {
    current_ = view.base;
    epoch_ = view.epoch;
    return {};
  }
  Status load_shard(uint32_t, std::span<const std::byte>) override { return {}; }
  Status init_shard(uint32_t) override { return {}; }
  Status finish_loading() override { return {}; }
  Status materialize(ViewCommunicator&) override { return {}; }
  Result<StepDone> run_step(ViewCommunicator&, Step step) override {
    current_ = {Version(step.value + 1), epoch_};
    finished_.emplace();
    finished_->epoch = epoch_;
    finished_->step = step;
    return fail(ErrorCode::kCommPeerLost, "while weights were made");
  }
  std::optional<StepDone> take_finished() override { return std::exchange(finished_, {}); }
  std::string payload_path() const override { return "payload goes by pigeon"; }
  StateVersion current() const override { return current_; }
  std::span<const uint32_t> owned() const override { return owned_; }
  size_t shard_bytes(uint32_t) const override { return 4096; }
  std::unique_ptr<Protection> protect_version(Version version, int64_t) override {
    return version == current_.version ? std::make_unique<Zeros>(current_) : nullptr;
  }

 private:
  class Zeros final : public Protection {
   public:
    explicit Zeros(StateVersion state) : state_(state) {}
    StateVersion state() const override { return state_; }
    Status read_shard(uint32_t, std::span<std::byte> out, const PieceFn& copied) override {
      std::fill(out.begin(), out.end(), std::byte{0});
      copied(out);
      return {};
    }

   private:
    const StateVersion state_;
  };
  StateVersion current_;
  Epoch epoch_;
  std::optional<StepDone> finished_;
  const std::vector<uint32_t> owned_{0};
};

// One whose device breaks under a capture.
class UnreadableTrainer final : public HalfStepTrainer {
 public:
  std::unique_ptr<Protection> protect_version(Version version, int64_t) override {
    return std::make_unique<Unreadable>(version);
  }

 private:
  class Unreadable final : public Protection {
   public:
    explicit Unreadable(Version version) : version_(version) {}
    StateVersion state() const override { return {version_, kOne}; }
    Status read_shard(uint32_t, std::span<std::byte>, const PieceFn&) override {
      return fail(ErrorCode::kDeviceFailed, "fell off the bus");
    }

   private:
    const Version version_;
  };
};

// One whose device breaks: before it is asked for anything, or while it makes room for a view.
class BrokenTrainer final : public HalfStepTrainer {
 public:
  explicit BrokenTrainer(bool from_the_start) : broken_(from_the_start) {}
  Status check_device() override {
    return broken_ ? fail(ErrorCode::kDeviceFailed, "fell off the bus") : Status{};
  }
  Status open_view(const TrainerView&) override {
    broken_ = true;
    return fail(ErrorCode::kDeviceMemory, "no room");  // as allocations say it then
  }

 private:
  bool broken_;
};

LaneParts parts_of(std::function<std::unique_ptr<Trainer>()> make) {
  return {[make = std::move(make)](const conf::JobConfig&, const TrainerPlace&, AbortWord&,
                                   ProgressFn) -> Result<std::unique_ptr<Trainer>> {
            return make();
          },
          {}};
}

Restore restore_of_one_lane() {
  Restore restore;
  restore.epoch = kOne;
  restore.lanes = 1;
  restore.coordinates = {0};
  restore.owner_lane = {0};
  restore.owned = {{0, WorkerSource::kInitial, 0}};
  return restore;
}

class WorkerCores : public ::testing::Test {
 protected:
  void expect_that_it_left_for_its_device() {
    const auto fatal = daemon_->expect<Fatal>();
    EXPECT_EQ(fatal.error.code, ErrorCode::kDeviceFailed) << fatal.error.to_string();
    EXPECT_EQ(fatal.epoch, Epoch{}) << "of this worker, not of the view";
    EXPECT_FALSE(daemon_->hear()) << "it is gone";
    EXPECT_NE(ended_.get().find("fell off the bus"), std::string::npos);
  }
  WorkerCores() {
    std::string name = (std::filesystem::temp_directory_path() / "holdfast-core-XXXXXX").string();
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    daemon_.emplace(folder_ / "worker.sock");
    auto arena = storage::Arena::open({.path = folder_ / "arena",
                                       .size_bytes = 1 << 20,
                                       .cluster = "test",
                                       .node = NodeId("node-0")});
    EXPECT_TRUE(arena) << arena.error().to_string();
    arena_ = std::move(*arena);
  }
  ~WorkerCores() override {
    if (ended_.valid()) ended_.wait();
    std::filesystem::remove_all(folder_);
  }
  void begin(LaneParts parts) {
    parts.make_factory =
        [this](const std::string&) -> Result<std::unique_ptr<CommunicatorFactory>> {
      return hub_.make_factory();
    };
    ended_ = std::async(std::launch::async, [this, parts = std::move(parts)] {
      WorkerOptions options;
      options.link.socket = folder_ / "worker.sock";
      WorkerCore core(options, parts, record_, [this](const std::string& text) {
        const MutexLock lock(notes_mutex_);
        notes_ += text + '\n';
      });
      return core.run();
    });
    daemon_->accept();
    daemon_->expect<Hello>();
    Welcome welcome;
    welcome.job.name = JobId("a");
    welcome.job.steps = 4;
    welcome.arena_path = folder_ / "arena";
    EXPECT_TRUE(daemon_->say(welcome));
    // A worker that cannot do its job may be gone by now.
    daemon_->say(Quiesce{kOne});
  }

  std::filesystem::path folder_;
  ProgressRecord record_{};
  InProcessHub hub_;
  std::unique_ptr<storage::Arena> arena_;
  std::optional<Daemon> daemon_;
  Mutex notes_mutex_;
  std::string notes_ GUARDED_BY(notes_mutex_);
  std::future<std::string> ended_;
};

TEST_F(WorkerCores, AWorkerWithoutItsDataSaysFatalAndLeavesWithoutAnyAnswer) {
  begin({[](const conf::JobConfig&, const TrainerPlace&, AbortWord&,
            ProgressFn) -> Result<std::unique_ptr<Trainer>> {
           return fail(ErrorCode::kDataMissing, "/data/text.tokens: No such file or directory");
         },
         {}});
  EXPECT_EQ(daemon_->expect<Fatal>().error.code, ErrorCode::kDataMissing);
  EXPECT_FALSE(daemon_->hear()) << "it is gone, and never said Quiesced";
  EXPECT_NE(ended_.get().find("/data/text.tokens"), std::string::npos);
}

TEST_F(WorkerCores, AWorkerWhoseDeviceIsBrokenOffersNothing) {
  begin(parts_of([] { return std::make_unique<BrokenTrainer>(true); }));
  expect_that_it_left_for_its_device();
}

TEST_F(WorkerCores, ADeviceThatBreaksInARestorationIsNoLackOfMemory) {
  begin(parts_of([] { return std::make_unique<BrokenTrainer>(false); }));
  daemon_->expect<Quiesced>();
  EXPECT_TRUE(daemon_->say(restore_of_one_lane()));
  expect_that_it_left_for_its_device();
}

TEST_F(WorkerCores, ADeviceThatBreaksUnderACaptureEndsTheWorker) {
  begin(parts_of([] { return std::make_unique<UnreadableTrainer>(); }));
  daemon_->expect<Quiesced>();
  EXPECT_TRUE(daemon_->say(restore_of_one_lane()));
  const auto restored = daemon_->expect<Restored>();
  const auto block = arena_->allocate(4096, NodeId("node-0"), kOne);
  ASSERT_TRUE(block);
  EXPECT_TRUE(daemon_->say(Capture{kOne, Version(0), {{0, block->index.value}}}));
  EXPECT_TRUE(daemon_->say(Go{kOne, {restored.comm_address}}));
  std::optional<Fatal> fatal;
  while (const auto message = daemon_->hear())
    if (const auto* said = std::get_if<Fatal>(&*message)) fatal = *said;
  ASSERT_TRUE(fatal) << "it left without a word";
  EXPECT_EQ(fatal->error.code, ErrorCode::kDeviceFailed) << fatal->error.to_string();
  EXPECT_EQ(fatal->epoch, Epoch{});
  EXPECT_NE(ended_.get().find("fell off the bus"), std::string::npos);
  EXPECT_FALSE(arena_->info(block->index)->header) << "nothing was published";
}

TEST_F(WorkerCores, AStepThatIsFinishedIsToldAlthoughWhatCameAfterItFailed) {
  begin(parts_of([] { return std::make_unique<HalfStepTrainer>(); }));
  daemon_->expect<Quiesced>();
  EXPECT_TRUE(daemon_->say(restore_of_one_lane()));
  const auto restored = daemon_->expect<Restored>();
  // Its capture is named before the version is made, and comes although the step fails.
  const auto block = arena_->allocate(4096, NodeId("node-0"), kOne);
  ASSERT_TRUE(block);
  EXPECT_TRUE(daemon_->say(Capture{kOne, Version(1), {{0, block->index.value}}}));
  EXPECT_TRUE(daemon_->say(Go{kOne, {restored.comm_address}}));
  const auto running = daemon_->expect<Running>();
  EXPECT_EQ(running.times.bytes, 4096u);
  EXPECT_GT(running.times.room_seconds, 0);
  EXPECT_GT(running.times.load_seconds, 0);
  EXPECT_GT(running.times.connect_seconds, 0);
  EXPECT_GT(running.times.weights_seconds, 0);
  bool captured = false, broken = false;
  std::optional<Step> done;
  while (!captured || !broken) {
    const auto message = daemon_->hear();
    ASSERT_TRUE(message);
    if (const auto* step = std::get_if<StepDone>(&*message)) done = step->step;
    if (const auto* report = std::get_if<Captured>(&*message)) {
      EXPECT_EQ(report->state.version, Version(1));
      captured = true;
    }
    if (const auto* report = std::get_if<CommBroken>(&*message)) {
      EXPECT_EQ(done, Step(0)) << "the row comes before the failure";
      EXPECT_EQ(report->step, Step(1));
      broken = true;
    }
    ASSERT_FALSE(std::holds_alternative<CaptureMissed>(*message)) << encode(*message);
  }
  EXPECT_TRUE(daemon_->say(Exit{"enough"}));
  EXPECT_FALSE(daemon_->hear());
  ended_.wait();
  const MutexLock lock(notes_mutex_);
  EXPECT_NE(notes_.find("payload goes by pigeon\n"), std::string::npos) << notes_;
}

}  // namespace
}  // namespace holdfast::train
