// dx = dy w for every expert: the weights are contiguous across the sum.
#include "train/kernels/grouped_kernel_cuda.cuh"

namespace holdfast::train::kernels {
namespace {
using cute::Shape, cute::_1, cute::_2, cute::_64, cute::_128, cute::_256;
using Product =
    Grouped<Cooperative<Shape<_128, _256, _64>, Shape<_2, _1, _1>>, cutlass::layout::RowMajor,
            cutlass::layout::RowMajor, cutlass::bfloat16_t, false>;
}  // namespace

void grouped_input_gradient(Cuda& cuda, const char* operation, GroupedRows rows, int n, int k,
                            GroupedOperand<const Bf16> dy, GroupedOperand<const Bf16> w,
                            GroupedOperand<Bf16> dx) {
  const GroupedExtents extents{
      .rows = RowsAre::kM, .m = 0, .n = n, .k = k, .row_a = k, .row_b = n, .row_d = n};
  run_grouped<Product>(cuda, operation, rows, extents, dy, w, dx, false);
}

}  // namespace holdfast::train::kernels
