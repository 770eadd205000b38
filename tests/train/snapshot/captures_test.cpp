// Captures while a trainer on the CPU goes on.
#include "tests/train/snapshot/captures_kit.h"

namespace holdfast::train {
namespace {

class Captures : public CapturesTest {
 protected:
  void SetUp() override {
    conf::ModelConfig model;
    model.vocabulary = 32;
    model.layers = 1;
    model.width = 64;
    model.heads = 2;
    model.kv_heads = 1;
    model.experts = 4;
    model.expert_width = 512;  // runs of more than one piece
    model.context = 16;
    set_up("cpu", model, 64 << 20);
  }
};

TEST_F(Captures, BesideTrainingAreThoseAtRest) { expect_beside_training_as_at_rest(); }
TEST_F(Captures, RevokedOnesAreNeverTakenForWholeOnes) { expect_nothing_of_what_was_revoked(); }

}  // namespace
}  // namespace holdfast::train
