// A trainer that there is no memory for is an error, wherever the memory ran out. A program of its own:
// it says which allocation fails.
#include <atomic>
#include <cstdlib>
#include <new>

#include "tests/train/data/data_test_help.h"
#include "train/step/trainer.h"

namespace {

std::atomic<int64_t> allocations_left{-1};  // before one fails; negative: none does

void* allocate(size_t bytes, size_t alignment) {
  if (allocations_left.load() >= 0 && allocations_left.fetch_sub(1) == 0) throw std::bad_alloc();
  void* at = std::aligned_alloc(alignment, (bytes + alignment) / alignment * alignment);
  if (at == nullptr) throw std::bad_alloc();
  return at;
}

}  // namespace

// Not inlined: g++ would take what is freed here for a mismatch.
[[gnu::noinline]] void* operator new(size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
[[gnu::noinline]] void* operator new(size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* at) noexcept { std::free(at); }
[[gnu::noinline]] void operator delete(void* at, size_t) noexcept { std::free(at); }
[[gnu::noinline]] void operator delete(void* at, std::align_val_t) noexcept { std::free(at); }
[[gnu::noinline]] void operator delete(void* at, size_t, std::align_val_t) noexcept { std::free(at); }

namespace holdfast::train {
namespace {

class CreateTest : public DataTest {
 protected:
  CreateTest() {
    job_.name = JobId("small");
    job_.steps = 4;
    job_.pipelines = 1;
    job_.micro_batches = 1;
    job_.model.vocabulary = 16;
    job_.model.layers = 1;
    job_.model.width = 16;
    job_.model.heads = 2;
    job_.model.kv_heads = 1;
    job_.model.experts = 2;
    job_.model.expert_width = 16;
    job_.model.context = 8;
    job_.data.path = write("text.bin", as_bytes(std::vector<uint16_t>(2000, 3))).string();
  }
  Result<std::unique_ptr<Trainer>> create() {
    return Trainer::create(job_, {}, abort_, [](Step, uint32_t, bool) {});
  }
  conf::JobConfig job_;
  AbortWord abort_;
};

TEST_F(CreateTest, MemoryThatRunsOutAnywhereIsAnError) {
  const auto whole = create();
  ASSERT_TRUE(whole) << whole.error().to_string();
  size_t refused = 0;
  for (int64_t before = 0; before < 100'000; ++before) {
    allocations_left = before;
    const auto trainer = create();
    const bool failed = allocations_left.exchange(-1) < 0;
    if (!failed) {
      EXPECT_TRUE(trainer);
      EXPECT_GT(refused, 30U) << "the whole way was walked";
      return;
    }
    // Reading the data may get along without, or have words of its own.
    if (!trainer && trainer.error().code == ErrorCode::kDeviceMemory) ++refused;
  }
  FAIL() << "it never came to an end";
}

}  // namespace
}  // namespace holdfast::train
