// The parts of a cluster in one thread that is driven from a seed: a loop that runs what is ready in
// random order and whose clock jumps, and a fabric whose writes may fail, be late or land after their
// channel was closed.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "storage/fabric/fabric.h"
#include "storage/replica/executor.h"

namespace holdfast::storage {

class SeededLoop final : public Executor {
 public:
  explicit SeededLoop(uint32_t seed) : random_(seed) {}

  void post(std::function<void()> action) override { after_ms(0, std::move(action)); }
  void aside(std::function<void()> work, std::function<void()> done) override {
    after_ms(0, [this, work = std::move(work), done = std::move(done)] {
      work();
      post(done);
    });
  }
  size_t helpers() const override { return 4; }
  void after_ms(int64_t ms, std::function<void()> action) override {
    waiting_.emplace(now_ms_ + ms, std::move(action));
  }

  // Runs one action; false when there is none.
  bool step() {
    if (waiting_.empty()) return false;
    now_ms_ = std::max(now_ms_, waiting_.begin()->first);
    const auto ready = std::distance(waiting_.begin(), waiting_.upper_bound(now_ms_));
    auto chosen = std::next(waiting_.begin(), pick(static_cast<uint32_t>(ready)));
    const auto action = std::move(chosen->second);
    waiting_.erase(chosen);
    action();
    return true;
  }
  void drain() {
    for (int steps = 0; step(); ++steps) ASSERT_LT(steps, 1'000'000) << "the loop never rests";
  }

  uint32_t pick(uint32_t below) { return static_cast<uint32_t>(random_() % below); }
  bool chance(uint32_t percent) { return pick(100) < percent; }
  int64_t now_ms() const { return now_ms_; }

 private:
  std::mt19937 random_;
  int64_t now_ms_ = 0;
  std::multimap<int64_t, std::function<void()>> waiting_;
};

// What one process runs on the loop: it ends with the process.
class ProcessExecutor final : public Executor {
 public:
  explicit ProcessExecutor(Executor& loop) : loop_(loop) {}
  void post(std::function<void()> action) override { loop_.post(while_alive(std::move(action))); }
  void aside(std::function<void()> work, std::function<void()> done) override {
    loop_.aside(while_alive(std::move(work)), while_alive(std::move(done)));
  }
  size_t helpers() const override { return loop_.helpers(); }
  void after_ms(int64_t ms, std::function<void()> action) override {
    loop_.after_ms(ms, while_alive(std::move(action)));
  }

 private:
  std::function<void()> while_alive(std::function<void()> action) {
    return [alive = std::weak_ptr<int>(alive_), action = std::move(action)] {
      if (alive.lock()) action();
    };
  }
  Executor& loop_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

// In percent, of every operation or request.
struct Trouble {
  uint32_t fails = 0;         // an operation fails; it may still land
  uint32_t lands_late = 50;   // of writes that failed or were flushed: they land after all
  int64_t late_ms = 0;        // at most this much later
  uint32_t request_lost = 0;  // or its reply: the caller hears kTimeout
  uint32_t flips = 0;         // a write arrives with one bit changed
  int64_t delay_ms = 3;
};

class SeededFabricNet {
 public:
  SeededFabricNet(SeededLoop& loop, Trouble& trouble) : loop_(loop), trouble_(trouble) {}
  std::unique_ptr<Fabric> open(const std::string& name, std::span<std::byte> region);
  void cut(const std::string& name) { regions_.erase(name); }

 private:
  friend class SeededChannel;
  friend class SeededFabric;
  SeededLoop& loop_;
  Trouble& trouble_;
  std::map<std::string, std::span<std::byte>> regions_;
};

class SeededChannel final : public Channel {
 public:
  SeededChannel(SeededFabricNet& net, std::span<std::byte> local, std::string peer)
      : net_(net), local_(local), peer_(std::move(peer)) {}
  ~SeededChannel() override { close(); }

  void write(uint64_t local, uint64_t remote, uint64_t length, FabricDone done) override {
    start({true, local, remote, length, std::move(done)});
  }
  void read(uint64_t local, uint64_t remote, uint64_t length, FabricDone done) override {
    start({false, local, remote, length, std::move(done)});
  }
  bool lost() const override { return !net_.regions_.contains(peer_); }
  void close() override {
    for (auto& [number, operation] : std::exchange(open_, {})) give_up(operation);
  }

 private:
  struct Operation {
    bool write;
    uint64_t local;
    uint64_t remote;
    uint64_t length;
    FabricDone done;
  };
  void start(Operation operation) {
    const uint64_t number = ++newest_;
    open_.emplace(number, std::move(operation));
    net_.loop_.after_ms(net_.loop_.pick(static_cast<uint32_t>(net_.trouble_.delay_ms) + 1),
                        [this, alive = std::weak_ptr<int>(alive_), number] {
                          if (alive.lock()) finish(number);
                        });
  }
  void finish(uint64_t number) {
    auto node = open_.extract(number);
    if (node.empty()) return;
    const Operation& operation = node.mapped();
    if (lost() || net_.loop_.chance(net_.trouble_.fails)) {
      give_up(operation);
      return;
    }
    copy(net_, local_, peer_, operation);
    operation.done({});
  }
  // Local bytes are not touched any more; those of a write may still be on their way.
  void give_up(const Operation& operation) {
    if (operation.write && net_.loop_.chance(net_.trouble_.lands_late)) {
      // What was sent is what the bytes were then.
      auto sent = std::make_shared<std::vector<std::byte>>(
          local_.begin() + operation.local, local_.begin() + operation.local + operation.length);
      net_.loop_.after_ms(net_.loop_.pick(static_cast<uint32_t>(net_.trouble_.late_ms) + 1),
                          [&net = net_, peer = peer_, sent, remote = operation.remote] {
                            const auto region = net.regions_.find(peer);
                            if (region != net.regions_.end())
                              std::memcpy(region->second.data() + remote, sent->data(),
                                          sent->size());
                          });
    }
    operation.done(fail(ErrorCode::kFabricLost, "operation to " + peer_ + " was given up"));
  }
  static void copy(SeededFabricNet& net, std::span<std::byte> local, const std::string& peer,
                   const Operation& operation) {
    const std::span<std::byte> region = net.regions_.at(peer);
    ASSERT_LE(operation.remote + operation.length, region.size());
    std::byte* there = region.data() + operation.remote;
    if (operation.write) {
      std::memcpy(there, local.data() + operation.local, operation.length);
      if (net.loop_.chance(net.trouble_.flips))
        there[net.loop_.pick(static_cast<uint32_t>(operation.length))] ^= std::byte{4};
    } else {
      std::memcpy(local.data() + operation.local, there, operation.length);
    }
  }

  SeededFabricNet& net_;
  const std::span<std::byte> local_;
  const std::string peer_;
  std::map<uint64_t, Operation> open_;
  uint64_t newest_ = 0;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

class SeededFabric final : public Fabric {
 public:
  SeededFabric(SeededFabricNet& net, std::string name, std::span<std::byte> region)
      : net_(net), name_(std::move(name)), region_(region) {}
  ~SeededFabric() override { net_.cut(name_); }
  const FabricAddress& address() const override { return name_; }
  Result<std::unique_ptr<Channel>> connect(const FabricAddress& peer) override {
    if (!net_.regions_.contains(peer)) return fail(ErrorCode::kFabricLost, peer + " is not there");
    return std::make_unique<SeededChannel>(net_, region_, peer);
  }

 private:
  SeededFabricNet& net_;
  const FabricAddress name_;
  const std::span<std::byte> region_;
};

inline std::unique_ptr<Fabric> SeededFabricNet::open(const std::string& name,
                                                     std::span<std::byte> region) {
  regions_[name] = region;
  return std::make_unique<SeededFabric>(*this, name, region);
}

}  // namespace holdfast::storage
