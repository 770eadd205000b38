// Memory of an accelerator, on one that the test plays: how much is asked for, and what is left when
// there is none.
#include "train/tensor/device_buffer.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <map>

namespace holdfast::train {
namespace {

struct Device {
  size_t room = 1'000;  // bytes
  size_t used = 0;
  size_t allocations = 0;
  std::map<void*, size_t> pieces;
};
Device device;

}  // namespace

namespace detail {

void* allocate_memory(MemoryKind, size_t bytes) {
  if (bytes == 0) return nullptr;
  if (bytes > device.room - device.used) throw OutOfDeviceMemory(bytes);
  void* at = std::malloc(bytes);
  device.pieces[at] = bytes;
  device.used += bytes;
  ++device.allocations;
  return at;
}

void free_memory(MemoryKind, void* data) noexcept {
  if (data == nullptr) return;
  device.used -= device.pieces.at(data);
  device.pieces.erase(data);
  std::free(data);
}

}  // namespace detail

namespace {

class DeviceBuffers : public ::testing::Test {
 protected:
  DeviceBuffers() { device = {}; }
  ~DeviceBuffers() override { EXPECT_TRUE(device.pieces.empty()); }
};

TEST_F(DeviceBuffers, TakeExactlyWhatIsAskedForAtFirst) {
  const DeviceBuffer<uint8_t> buffer(400);
  EXPECT_EQ(device.used, 400U);
}

TEST_F(DeviceBuffers, GrowByAQuarterMoreThanIsAskedForSoThatTheyGrowSeldom) {
  DeviceBuffer<uint8_t> buffer(100);
  for (size_t elements = 101; elements <= 200; ++elements) {
    buffer.resize(elements);
    EXPECT_EQ(buffer.size(), elements);
  }
  EXPECT_LE(device.allocations, 5U);
  EXPECT_LE(device.used, 250U);
  buffer.resize(3);
  EXPECT_EQ(buffer.size(), 3U);
  EXPECT_LE(device.allocations, 5U) << "what is made smaller is kept";
}

TEST_F(DeviceBuffers, GrowByWhatIsAskedForWhereThereIsNoMore) {
  DeviceBuffer<uint8_t> buffer(100);
  buffer.resize(990);
  EXPECT_EQ(buffer.size(), 990U);
  EXPECT_EQ(device.used, 990U);
}

TEST_F(DeviceBuffers, AreEmptyAfterTheyCouldNotGrowAndGoOn) {
  DeviceBuffer<uint32_t> buffer(100);
  try {
    buffer.resize(300);
    FAIL() << "there is no room for it";
  } catch (const OutOfDeviceMemory& memory) {
    EXPECT_EQ(memory.bytes, 1'200U) << "as was asked for";
  }
  EXPECT_EQ(buffer.size(), 0U) << "nobody takes it for what it was";
  EXPECT_EQ(buffer.data(), nullptr);
  EXPECT_EQ(device.used, 0U);
  buffer.resize(100);
  EXPECT_EQ(buffer.size(), 100U);
  EXPECT_NE(buffer.data(), nullptr);
  EXPECT_EQ(device.used, 400U);
}

}  // namespace
}  // namespace holdfast::train
