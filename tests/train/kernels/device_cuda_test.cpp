// A device opens or says what is missing; memory moves both ways; errors are remembered with a
// name.
#include <dlfcn.h>
#include <sys/mman.h>

#include <cstdlib>
#include <numeric>
#include <thread>

#include "tests/train/kernels/cuda_kit.h"
#include "train/kernels/cuda_libraries.h"

namespace holdfast::train::kernels {
namespace {

class DeviceCudaTest : public CudaTest {};

TEST(OpenCuda, SaysWhatIsMissing) {
  const auto opened = Cuda::open(1000);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, ErrorCode::kDeviceMissing) << opened.error().to_string();
  EXPECT_NE(opened.error().message.find("CUDA device"), std::string::npos);
}

TEST(OldLibrary, IsToldTheVersionThatIsNeeded) {
  void* program = dlopen(nullptr, RTLD_NOW);
  for (const auto& [soname, version] :
       {std::pair{"libnccl.so.2", "NCCL 2.28"}, std::pair{"libcudnn.so.9", "cuDNN 9"},
        std::pair{"libcublasLt.so.13", "CUDA 13"}}) {
    const auto found = library_function(program, soname, "functionOfALaterVersion");
    ASSERT_FALSE(found);
    EXPECT_EQ(found.error().code, ErrorCode::kDeviceMissing);
    EXPECT_NE(found.error().message.find(version), std::string::npos) << found.error().to_string();
    EXPECT_NE(found.error().message.find("functionOfALaterVersion"), std::string::npos);
  }
}

TEST_F(DeviceCudaTest, HasANameAndMultiprocessors) {
  EXPECT_FALSE(cuda().name().empty());
  EXPECT_TRUE(cuda().check());
}

TEST_F(DeviceCudaTest, CopiesAndZeroes) {
  std::vector<uint32_t> numbers(100'003);
  std::iota(numbers.begin(), numbers.end(), 7U);
  const DeviceBuffer<uint32_t> first = to_device(numbers);
  DeviceBuffer<uint32_t> second = poisoned<uint32_t>(numbers.size());
  copy(cuda(), first.data(), numbers.size(), second.data());
  EXPECT_EQ(to_host(second), numbers);
  zero(cuda(), second.data() + 1, numbers.size() - 2);
  std::vector<uint32_t> zeroed(numbers.size(), 0);
  zeroed.front() = numbers.front();
  zeroed.back() = numbers.back();
  EXPECT_EQ(to_host(second), zeroed);
}

TEST_F(DeviceCudaTest, StateGoesInFromAnyMemoryAndIsReadByAnotherThread) {
  std::vector<uint32_t> numbers(1'000'003), read(numbers.size());
  std::iota(numbers.begin(), numbers.end(), 11U);
  DeviceBuffer<uint32_t> device = poisoned<uint32_t>(numbers.size());
  upload_now(cuda(), numbers.data(), numbers.size() * sizeof(uint32_t), device.data());
  CudaReader reader(cuda());
  std::thread([&] {
    const Status status = reader.read(device.data(), read.size() * sizeof(uint32_t), read.data());
    EXPECT_TRUE(status) << status.error().to_string();
  }).join();
  EXPECT_EQ(read, numbers);
  EXPECT_TRUE(reader.read(nullptr, 0, nullptr));
}

TEST_F(DeviceCudaTest, TheAbortWordIsClearAtFirst) { EXPECT_EQ(cuda().abort_word().load(), 0U); }

TEST_F(DeviceCudaTest, WhoIsAskedWhenAllIsDoneCanMakeFinishFail) {
  cuda().on_finish(this, [] { return fail(ErrorCode::kCommPeerLost, "rank 1 is gone"); });
  const Status finished = cuda().finish();
  ASSERT_FALSE(finished);
  EXPECT_EQ(finished.error().code, ErrorCode::kCommPeerLost);
  EXPECT_TRUE(cuda().check()) << "the device is well";
  cuda().on_finish(this, {});
  EXPECT_TRUE(cuda().finish());
}

TEST_F(DeviceCudaTest, OfSeveralVerdictsOneThatWasNotMerelyAbortedIsFinishs) {
  const int owners[3] = {};
  for (const int& owner : owners)
    cuda().on_finish(&owner, [broken = &owner == &owners[1]] {
      return fail(broken ? ErrorCode::kCommTimeout : ErrorCode::kCommAborted, "");
    });
  EXPECT_EQ(cuda().finish().error().code, ErrorCode::kCommTimeout);
  cuda().on_finish(&owners[1], {});
  EXPECT_EQ(cuda().finish().error().code, ErrorCode::kCommAborted);
  cuda().on_finish(&owners[0], {});
  cuda().on_finish(&owners[2], {});
  EXPECT_TRUE(cuda().finish());
}

TEST_F(DeviceCudaTest, AMomentIsOverOnceWhatWasEnqueuedBeforeItIsDone) {
  kernels::CudaMoment moment, moved;
  moment.wait();
  PinnedBuffer<uint32_t> host(1 << 20);
  DeviceBuffer<uint32_t> device(host.size());
  for (uint32_t round = 1; round < 20; ++round) {
    std::fill(host.data(), host.data() + host.size(), round);
    upload(cuda(), host.data(), host.size(), device.data());
    std::swap(moment, moved);
    moment.record(cuda());
    moment.wait();  // the host's memory is free again
    std::fill(host.data(), host.data() + host.size(), 0U);
    download(cuda(), device.data(), host.size(), host.data());
    ASSERT_TRUE(cuda().finish());
    ASSERT_EQ(host.data()[host.size() - 1], round);
  }
}

TEST_F(DeviceCudaTest, NothingIsAnAllowedAmount) {
  DeviceBuffer<float> none;
  copy(cuda(), none.data(), 0, none.data());
  zero(cuda(), none.data(), 0);
  upload_bytes(cuda(), nullptr, 0, none.data());
  download_bytes(cuda(), none.data(), 0, nullptr);
  EXPECT_TRUE(cuda().finish());
}

TEST_F(DeviceCudaTest, TooMuchMemoryIsAnExceptionThatTellsHowMuch) {
  DeviceBuffer<float> buffer;
  const size_t elements = size_t{1} << 48;
  try {
    buffer.resize(elements);
    FAIL() << "nobody has that much";
  } catch (const OutOfDeviceMemory& memory) {
    EXPECT_EQ(memory.bytes, elements * sizeof(float));
  }
  EXPECT_TRUE(cuda().finish()) << "the error was told already";
  buffer.resize(3);
  EXPECT_NE(buffer.data(), nullptr);
}

TEST_F(DeviceCudaTest, HostMemoryThatCannotBePinnedIsNamedWithItsBytes) {
  constexpr size_t kBytes = size_t{3} << 20;
  void* nobodys = mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(nobodys, MAP_FAILED);
  const Status pinned = cuda().register_host(nobodys, kBytes);
  munmap(nobodys, kBytes);
  ASSERT_FALSE(pinned);
  EXPECT_NE(pinned.error().message.find("3145728 bytes of the arena"), std::string::npos)
      << pinned.error().to_string();
  EXPECT_TRUE(cuda().finish()) << "the error was told already";
}

TEST_F(DeviceCudaTest, TwoOfThemCanBeOpen) {
  auto other = Cuda::open(0);
  ASSERT_TRUE(other) << other.error().to_string();
  DeviceBuffer<float> data(1000);
  zero(**other, data.data(), data.size());
  EXPECT_TRUE((*other)->finish());
}

}  // namespace
}  // namespace holdfast::train::kernels
