// Capture orders: which is taken when, and that nothing is ever published by half.
#include "train/snapshot/capturer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <set>
#include <vector>

namespace holdfast::train {
namespace {

constexpr Epoch kEpoch{1, 4};
constexpr size_t kShardBytes = 4096;
constexpr uint64_t kJob = 77;

// What the trainer's buffers are to a capture; the test decides what happens during a copy.
class Buffers {
 public:
  using Copy = std::function<bool(uint32_t shard)>;

  void hold(Version version) {
    MutexLock lock(mutex_);
    held_.insert(version.value);
  }
  // `why`: the error of a copy for which it says false.
  void on_copy(Copy copy, Error why = {ErrorCode::kTimeout, "the update took the buffer back"}) {
    MutexLock lock(mutex_);
    copy_ = std::move(copy);
    why_ = std::move(why);
  }
  std::unique_ptr<Protection> protect(Version version) {
    MutexLock lock(mutex_);
    if (!held_.contains(version.value)) return nullptr;
    return std::make_unique<Guard>(version, copy_, why_);
  }

 private:
  class Guard final : public Protection {
   public:
    Guard(Version version, Copy copy, Error why)
        : version_(version), copy_(std::move(copy)), why_(std::move(why)) {}
    StateVersion state() const override { return {version_, kEpoch}; }
    Status read_shard(uint32_t shard, std::span<std::byte> out, const PieceFn& copied) override {
      std::memset(out.data(), static_cast<int>(version_.value), out.size());
      copied(out.first(out.size() / 3));
      copied(out.subspan(out.size() / 3));
      if (!copy_ || copy_(shard)) return {};
      return fail(why_);
    }

   private:
    const Version version_;
    const Copy copy_;
    const Error why_;
  };
  Mutex mutex_;
  std::set<uint64_t> held_ GUARDED_BY(mutex_);
  Copy copy_ GUARDED_BY(mutex_);
  Error why_ GUARDED_BY(mutex_);
};

// The parameter: threads that copy.
class Capturers : public ::testing::TestWithParam<uint32_t> {
 protected:
  Capturers() {
    path_ = std::filesystem::temp_directory_path() /
            ("holdfast-capturer-" + std::to_string(::getpid()));
    std::filesystem::remove(path_);
    auto arena = storage::Arena::open(
        {.path = path_, .size_bytes = 1 << 20, .cluster = "test", .node = NodeId("node-0")});
    EXPECT_TRUE(arena) << arena.error().to_string();
    arena_ = std::move(*arena);
  }
  ~Capturers() override {
    capturer_.reset();
    arena_.reset();
    std::filesystem::remove(path_);
  }

  void begin(CaptureLimits limits) {
    capturer_.emplace(
        limits,
        [this](FromWorker report) {
          MutexLock lock(mutex_);
          reports_.push_back(std::move(report));
          changed_.notify_all();
        },
        [this](Error error) {
          MutexLock lock(mutex_);
          broken_.push_back(error.code);
        });
    capturer_->open({*arena_, kJob, 1, [](uint32_t) { return kShardBytes; }, GetParam()},
                    [this](Version version, int64_t) { return buffers_.protect(version); });
  }
  Capture order(uint64_t version) {
    Capture capture{kEpoch, Version(version), {}};
    for (uint32_t shard = 0; shard < 2; ++shard) {
      const auto block = arena_->allocate(kShardBytes, NodeId("node-0"), kEpoch);
      EXPECT_TRUE(block);
      capture.blocks.push_back({shard, block->index.value});
    }
    return capture;
  }
  // The report number `index`, once it is there.
  FromWorker report(size_t index) {
    MutexLock lock(mutex_);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (reports_.size() <= index)
      if (changed_.wait_until(mutex_, deadline) == std::cv_status::timeout) break;
    const bool came = reports_.size() > index;
    EXPECT_TRUE(came) << "report " << index;
    return came ? reports_[index] : FromWorker(Hello{});
  }
  Version captured(size_t index) {
    const FromWorker message = report(index);
    const auto* done = std::get_if<Captured>(&message);
    EXPECT_NE(done, nullptr) << why(message);
    return done ? done->state.version : Version(0);
  }
  CaptureMissed missed(size_t index) {
    const FromWorker message = report(index);
    const auto* gone = std::get_if<CaptureMissed>(&message);
    EXPECT_NE(gone, nullptr);
    return gone ? *gone : CaptureMissed{};
  }
  static std::string why(const FromWorker& message) {
    const auto* gone = std::get_if<CaptureMissed>(&message);
    return gone ? gone->why : "";
  }
  bool is_published(const Capture& capture, size_t block) {
    return arena_->info(storage::BlockIndex(capture.blocks[block].block))->header.has_value();
  }

  std::filesystem::path path_;
  std::unique_ptr<storage::Arena> arena_;
  Buffers buffers_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<FromWorker> reports_ GUARDED_BY(mutex_);
  std::vector<ErrorCode> broken_ GUARDED_BY(mutex_);
  std::optional<Capturer> capturer_;
};

TEST_P(Capturers, AVersionThatIsHeldIsPublished) {
  begin({});
  buffers_.hold(Version(3));
  const Capture capture = order(3);
  capturer_->set_version(Version(3));
  capturer_->order(capture);
  EXPECT_EQ(captured(0), Version(3));
  storage::BlockHeader expected;
  expected.job = kJob;
  expected.shard = ShardId::unflat(1, 1);
  expected.state = {Version(3), kEpoch};
  const auto payload =
      arena_->read_verified(storage::BlockIndex(capture.blocks[1].block), expected);
  ASSERT_TRUE(payload) << payload.error().to_string();
  EXPECT_EQ((*payload)[17], std::byte{3});
}

// A capture named far ahead does not keep back that of a planned stop.
TEST_P(Capturers, TheLowestVersionComesFirstAndOneAheadKeepsNobodyWaiting) {
  begin({});
  for (const uint64_t v : {2, 4, 10}) buffers_.hold(Version(v));
  capturer_->set_version(Version(1));
  capturer_->order(order(10));
  capturer_->order(order(4));
  capturer_->order(order(2));
  capturer_->set_version(Version(4));
  EXPECT_EQ(captured(0), Version(2));
  EXPECT_EQ(captured(1), Version(4));
  capturer_->order(order(4));  // wakes the thread that waits for version 10
  EXPECT_EQ(captured(2), Version(4));
  capturer_->set_version(Version(10));
  EXPECT_EQ(captured(3), Version(10));
}

TEST_P(Capturers, AVersionThatIsNeverMadeIsMissedInTime) {
  begin({.version_wait_ms = 20});
  capturer_->set_version(Version(1));
  capturer_->order(order(2));
  EXPECT_EQ(missed(0).version, Version(2));
  EXPECT_NE(missed(0).why.find("not made, nor any other within 20 ms"), std::string::npos);
}

TEST_P(Capturers, AVersionThatIsGoneIsMissed) {
  begin({});
  capturer_->set_version(Version(9));
  capturer_->order(order(2));
  EXPECT_NE(missed(0).why.find("no buffer holds version 2"), std::string::npos);
}

TEST_P(Capturers, OneOrderTooManyIsRefusedAtOnce) {
  begin({.queue = 2});
  capturer_->order(order(5));
  capturer_->order(order(6));
  capturer_->order(order(4));
  EXPECT_EQ(missed(0).version, Version(4));
  EXPECT_NE(missed(0).why.find("2 captures wait already"), std::string::npos);
}

TEST_P(Capturers, ABufferThatIsTakenBackPublishesNothing) {
  begin({});
  buffers_.hold(Version(1));
  buffers_.on_copy([](uint32_t shard) { return shard == 0; });
  const Capture capture = order(1);
  capturer_->set_version(Version(1));
  capturer_->order(capture);
  EXPECT_NE(missed(0).why.find("took the buffer"), std::string::npos);
  EXPECT_FALSE(is_published(capture, 0));
  EXPECT_FALSE(is_published(capture, 1));
  MutexLock lock(mutex_);
  EXPECT_TRUE(broken_.empty()) << "the device is well";
}

TEST_P(Capturers, ADeviceThatCannotBeReadIsTold) {
  begin({});
  buffers_.hold(Version(1));
  buffers_.on_copy([](uint32_t shard) { return shard == 0; },
                   {ErrorCode::kDeviceFailed, "an illegal address"});
  const Capture capture = order(1);
  capturer_->set_version(Version(1));
  capturer_->order(capture);
  EXPECT_NE(missed(0).why.find("an illegal address"), std::string::npos);
  EXPECT_FALSE(is_published(capture, 0));
  MutexLock lock(mutex_);
  EXPECT_EQ(broken_, std::vector<ErrorCode>{ErrorCode::kDeviceFailed});
}

TEST_P(Capturers, CancelDuringACopyPublishesNothingAndDropsWhatWaits) {
  begin({});
  buffers_.hold(Version(1));
  buffers_.hold(Version(2));
  buffers_.on_copy([this](uint32_t) {
    capturer_->cancel();  // as the link's thread does when Quiesce comes
    return true;
  });
  const Capture capture = order(1);
  capturer_->order(order(2));
  capturer_->order(capture);
  capturer_->set_version(Version(1));
  EXPECT_NE(missed(0).why.find("the view ended"), std::string::npos);
  EXPECT_FALSE(is_published(capture, 0));
  capturer_->cancel_and_wait();
  buffers_.on_copy({});
  capturer_->set_version(Version(2));  // of the next view: the old order is not remembered
  const Capture next = order(2);
  capturer_->order(next);
  EXPECT_EQ(captured(1), Version(2));
  capturer_->cancel_and_wait();
  MutexLock lock(mutex_);
  EXPECT_EQ(reports_.size(), 2u);
}

TEST_P(Capturers, ANewViewDoesNotKnowTheVersionsOfTheOldOne) {
  begin({.version_wait_ms = 20});
  buffers_.hold(Version(5));
  capturer_->set_version(Version(5));
  capturer_->cancel_and_wait();
  capturer_->order(order(5));
  EXPECT_NE(missed(0).why.find("not made"), std::string::npos);
}

TEST_P(Capturers, SeveralThreadsCopyAtATime) {
  begin({});
  buffers_.hold(Version(1));
  Mutex mutex;
  CondVar changed;
  uint32_t inside = 0;
  buffers_.on_copy([&](uint32_t) {
    const MutexLock lock(mutex);
    ++inside;
    changed.notify_all();
    // With one thread nobody else comes.
    const auto deadline = std::chrono::steady_clock::now() +
                          std::chrono::milliseconds(GetParam() > 1 ? 20'000 : 1);
    while (inside < 2)
      if (changed.wait_until(mutex, deadline) == std::cv_status::timeout) break;
    return inside == 2 || GetParam() == 1;
  });
  capturer_->set_version(Version(1));
  capturer_->order(order(1));
  EXPECT_EQ(captured(0), Version(1));
  EXPECT_EQ(inside, 2u);
}

INSTANTIATE_TEST_SUITE_P(Threads, Capturers, ::testing::Values(1U, 3U));

}  // namespace
}  // namespace holdfast::train
