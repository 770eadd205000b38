// y = x w^T for every expert: both operands are contiguous along the sum.
#include "train/kernels/grouped_kernel_cuda.cuh"

namespace holdfast::train::kernels {
namespace {
using cute::Shape, cute::_1, cute::_2, cute::_64, cute::_128, cute::_256;
using Product =
    Grouped<Cooperative<Shape<_128, _256, _64>, Shape<_2, _1, _1>>, cutlass::layout::RowMajor,
            cutlass::layout::ColumnMajor, cutlass::bfloat16_t, false>;
}  // namespace

void grouped_forward(Cuda& cuda, const char* operation, GroupedRows rows, int n, int k,
                     GroupedOperand<const Bf16> x, GroupedOperand<const Bf16> w,
                     GroupedOperand<Bf16> y) {
  const GroupedExtents extents{
      .rows = RowsAre::kM, .m = 0, .n = n, .k = k, .row_a = k, .row_b = k, .row_d = n};
  run_grouped<Product>(cuda, operation, rows, extents, x, w, y, false);
}

}  // namespace holdfast::train::kernels
