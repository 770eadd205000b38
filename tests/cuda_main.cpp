// main() of the tests of accelerators. Exit 77, which ctest calls "Skipped", where nothing failed and either
// no test passed or no device opened; GoogleTest's own says that all is well then.
#include <gtest/gtest.h>

#include "tests/cuda_devices.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const int failed = RUN_ALL_TESTS();
  const testing::UnitTest& tests = *testing::UnitTest::GetInstance();
  const bool skipped = tests.skipped_test_count() > 0 &&
                       (tests.successful_test_count() == 0 || holdfast::test::no_device_opened);
  return failed == 0 && skipped ? holdfast::test::kAllSkipped : failed;
}
