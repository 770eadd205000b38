// For the suites that every communicator passes: ranks are threads of this process.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "train/comm/gloo_communicator.h"
#include "train/comm/in_process.h"

namespace holdfast::train {

using MakeFactory = std::function<std::unique_ptr<CommunicatorFactory>()>;

struct Kind {
  std::string name;
  std::function<MakeFactory()> open;
};

inline MakeFactory open_in_process() {
  const auto hub = std::make_shared<InProcessHub>();
  return [hub] { return hub->make_factory(); };
}

inline MakeFactory open_gloo() {
  return [] {
    auto factory = make_gloo_factory("127.0.0.1");
    CHECK(factory.has_value(), "{}", factory.error().to_string());
    return std::move(*factory);
  };
}

using Comms = std::vector<std::unique_ptr<ViewCommunicator>>;

class Conformance : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override { make_ = GetParam().open(); }

  // Factories stay, as they do in a worker over many views.
  Comms connect(uint32_t size, int64_t collective_timeout_ms = 20'000) {
    while (factories_.size() < size) factories_.push_back(make_());
    std::vector<std::string> addresses;
    for (uint32_t r = 0; r < size; ++r) addresses.push_back(*factories_[r]->prepare(r, size));
    Comms comms(size);
    on_threads(size, [&](uint32_t r) {
      auto comm = factories_[r]->connect(addresses, 10'000, collective_timeout_ms);
      CHECK(comm.has_value(), "{}", comm.error().to_string());
      comms[r] = std::move(*comm);
    });
    return comms;
  }

  static void on_threads(uint32_t count, const std::function<void(uint32_t)>& body) {
    std::vector<std::thread> threads;
    for (uint32_t r = 0; r < count; ++r) threads.emplace_back([&, r] { body(r); });
    for (std::thread& thread : threads) thread.join();
  }

  MakeFactory make_;
  std::vector<std::unique_ptr<CommunicatorFactory>> factories_;
};

// Of a suite that is a name for Conformance.
inline auto communicator_kinds() {
  return testing::Values(Kind{"InProcess", open_in_process}, Kind{"Gloo", open_gloo});
}
inline std::string kind_name(const testing::TestParamInfo<Kind>& info) { return info.param.name; }

// What rank `from` sends rank `to` in round `round`: a function of these, so both sides know it.
inline std::vector<std::byte> payload(uint64_t round, uint32_t from, uint32_t to, size_t most) {
  std::mt19937_64 random(round * 1'000 + from * 31 + to);
  std::vector<std::byte> bytes(random() % 3 == 0 ? 0 : random() % most);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

// A byte from everybody: nobody leaves before all have come.
inline Status meet(Communicator& comm) {
  const std::vector<std::byte> mine(1);
  std::vector<std::byte> all(comm.size());
  const std::vector<size_t> sizes(comm.size(), 1);
  return comm.all_gather(mine, all, sizes);
}

}  // namespace holdfast::train
