// Host memory of tensors, where the test says when there is none.
#include "train/tensor/buffer.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <new>

namespace {
bool no_memory = false;
}  // namespace

// What Buffer allocates with. Not inlined: g++ would take what is freed here for a mismatch.
[[gnu::noinline]] void* operator new(size_t bytes, std::align_val_t alignment) {
  const auto align = static_cast<size_t>(alignment);
  void* at = no_memory ? nullptr : std::aligned_alloc(align, (bytes + align) / align * align);
  if (at == nullptr) throw std::bad_alloc();
  return at;
}
[[gnu::noinline]] void operator delete(void* at, std::align_val_t) noexcept { std::free(at); }
[[gnu::noinline]] void operator delete(void* at, size_t, std::align_val_t) noexcept {
  std::free(at);
}

namespace holdfast::train {
namespace {

TEST(Buffers, OneThatCannotGrowStaysAsItIsAndGrowsLater) {
  Buffer<float> buffer(8);
  buffer.zero();
  const float* before = buffer.data();
  no_memory = true;
  EXPECT_THROW(buffer.resize(1000), std::bad_alloc);
  no_memory = false;
  EXPECT_EQ(buffer.size(), 8U);
  EXPECT_EQ(buffer.data(), before);
  EXPECT_EQ(buffer.span()[7], 0);
  buffer.resize(1000);
  ASSERT_NE(buffer.data(), before) << "what there was has no room for it";
  EXPECT_EQ(buffer.size(), 1000U);
  buffer.zero();
}

}  // namespace
}  // namespace holdfast::train
