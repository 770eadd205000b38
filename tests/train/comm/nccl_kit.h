// For tests of payload between accelerators: ranks as threads, each with a device, whose metadata
// meets in memory; and what one rank sends another, known to both.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "tests/cuda_devices.h"
#include "train/comm/in_process.h"
#include "train/comm/nccl_payload.h"
#include "train/kernels/ops_cuda.h"

namespace holdfast::train {

using kernels::Cuda;

class OneDevice : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = missing_devices(1); !why.empty()) GTEST_SKIP() << why;
  }
};
class TwoDevices : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = missing_devices(2); !why.empty()) GTEST_SKIP() << why;
  }
  const std::vector<uint32_t> ordinals_{0, 1};
};

struct Rank {
  uint32_t number;
  Cuda& cuda;
  ViewCommunicator& comm;
  Teardowns& aborts;
};

// One thread for each; `ordinals` are their devices.
inline void on_ranks(const std::vector<uint32_t>& ordinals,
                     const std::function<void(const Rank&)>& body) {
  auto comms = make_in_process_group(static_cast<uint32_t>(ordinals.size()), 20'000);
  std::vector<std::thread> threads;
  for (uint32_t r = 0; r < ordinals.size(); ++r)
    threads.emplace_back([&, r] {
      auto cuda = Cuda::open(ordinals[r]);
      CHECK(cuda.has_value(), "{}", cuda.error().to_string());
      Teardowns aborts{std::chrono::seconds(20)};
      body({r, **cuda, *comms[r], aborts});
    });
  for (std::thread& thread : threads) thread.join();
}

// Nobody leaves before all have come.
inline void meet(Communicator& comm) {
  const std::vector<std::byte> mine(1);
  std::vector<std::byte> all(comm.size());
  EXPECT_TRUE(comm.all_gather(mine, all, std::vector<size_t>(comm.size(), 1)));
}

constexpr uint64_t kNotEmpty = 1'000'000;  // a round with something from everybody to everybody
inline std::vector<std::byte> sent_from_to(uint64_t round, uint32_t from, uint32_t to,
                                           size_t most) {
  std::mt19937_64 random(round * 1'000 + from * 31 + to);
  const bool empty = round != kNotEmpty && random() % 3 == 0;
  std::vector<std::byte> bytes(empty ? 0 : random() % most);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

// Bytes in device memory of the calling thread's device.
inline DeviceBuffer<std::byte> on_device(Cuda& cuda, const std::vector<std::byte>& host) {
  DeviceBuffer<std::byte> device(host.size());
  kernels::upload_now(cuda, host.data(), host.size(), device.data());
  return device;
}

// One exchange of made-up pieces, some of them empty; whether each came as it was sent.
inline Status exchange_round(const Rank& rank, PayloadExchange& payload, uint64_t round,
                             size_t most, bool& right) {
  std::vector<std::byte> send, wanted;
  std::vector<size_t> send_bytes, recv_bytes;
  for (uint32_t r = 0; r < rank.comm.size(); ++r) {
    const auto out = sent_from_to(round, rank.number, r, most);
    const auto in = sent_from_to(round, r, rank.number, most);
    send.insert(send.end(), out.begin(), out.end());
    wanted.insert(wanted.end(), in.begin(), in.end());
    send_bytes.push_back(out.size());
    recv_bytes.push_back(in.size());
  }
  const DeviceBuffer<std::byte> from = on_device(rank.cuda, send);
  DeviceBuffer<std::byte> to = on_device(rank.cuda, std::vector<std::byte>(wanted.size()));
  PinnedBuffer<std::byte> got(wanted.size());
  RETURN_IF_ERROR(payload.all_to_all(from.data(), send_bytes, to.data(), recv_bytes));
  download_bytes(rank.cuda, to.data(), wanted.size(), got.data());
  RETURN_IF_ERROR(rank.cuda.finish());
  right = wanted.empty() || std::memcmp(got.data(), wanted.data(), wanted.size()) == 0;
  return {};
}

inline void expect_exchange(const Rank& rank, PayloadExchange& payload, uint64_t round,
                            size_t most) {
  bool right = false;
  const Status status = exchange_round(rank, payload, round, most, right);
  ASSERT_TRUE(status) << "rank " << rank.number << ": " << status.error().to_string();
  ASSERT_TRUE(right) << "rank " << rank.number << " round " << round;
}

inline int64_t ms_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() -
                                                               begin)
      .count();
}

}  // namespace holdfast::train
