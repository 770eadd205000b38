// dw (+)= dy^T x for every expert: the sum runs over its rows, both operands are contiguous across
// it.
#include "train/kernels/grouped_kernel_cuda.cuh"

namespace holdfast::train::kernels {
namespace {
using cute::Shape, cute::_1, cute::_2, cute::_64, cute::_128, cute::_256;
using Product = Grouped<Cooperative<Shape<_128, _256, _64>, Shape<_2, _1, _1>>,
                        cutlass::layout::ColumnMajor, cutlass::layout::RowMajor, float, true>;
}  // namespace

void grouped_weight_gradient(Cuda& cuda, const char* operation, GroupedRows rows, int m, int n,
                             GroupedOperand<const Bf16> dy, GroupedOperand<const Bf16> x, bool add,
                             GroupedOperand<float> dw) {
  const GroupedExtents extents{
      .rows = RowsAre::kK, .m = m, .n = n, .k = 0, .row_a = m, .row_b = n, .row_d = n};
  run_grouped<Product>(cuda, operation, rows, extents, dy, x, dw, add);
}

}  // namespace holdfast::train::kernels
