// Captures from an accelerator's memory into an arena that it copies to by itself, while its trainer goes on.
#include "tests/cuda_devices.h"
#include "tests/train/snapshot/captures_kit.h"

namespace holdfast::train {
namespace {

class CapturesOnCuda : public CapturesTest {
 protected:
  void SetUp() override {
    if (const std::string why = missing_devices(1); !why.empty()) GTEST_SKIP() << why;
    conf::ModelConfig model;
    model.vocabulary = 256;
    model.layers = 1;
    model.width = 512;
    model.heads = 4;
    model.kv_heads = 2;
    model.experts = 4;
    model.expert_width = 1024;  // runs of more than one piece
    model.context = 64;
    set_up("cuda", model, size_t{640} << 20);  // six versions of 85 MB
  }
};

TEST_F(CapturesOnCuda, BesideTrainingAreThoseAtRest) { expect_beside_training_as_at_rest(); }
TEST_F(CapturesOnCuda, RevokedOnesAreNeverTakenForWholeOnes) { expect_nothing_of_what_was_revoked(); }

}  // namespace
}  // namespace holdfast::train
