// The kernel behind grouped_cuda.cuh: CUTLASS's persistent warp-specialised product with an array
// of problems (its example 57), compiled for sm_90a only. Each *.cu file instantiates one.
#pragma once

// clang-format off: CUTLASS's own order
#include <cutlass/cutlass.h>
#include <cute/tensor.hpp>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/gemm/dispatch_policy.hpp>
#include <cutlass/gemm/group_array_problem_shape.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>
// clang-format on

#include <string>
#include <type_traits>

#include "train/kernels/grouped_cuda.cuh"

namespace holdfast::train::kernels {

// Two consumer warp groups share one tile of 128 rows and more; in ping-pong each has its own.
template <class TileShape_, class ClusterShape_>
struct Cooperative {
  using TileShape = TileShape_;
  using ClusterShape = ClusterShape_;
  using Mainloop = cutlass::gemm::KernelPtrArrayTmaWarpSpecializedCooperative;
  using Epilogue = cutlass::epilogue::PtrArrayTmaWarpSpecializedCooperative;
};

// D = A B^T (+ C): A [m, k] and B [n, k] are bf16, contiguous along k ("row" of A, "column" of B)
// or across it; C and D are row-major of type Out; C only where it may be added.
template <class Schedule, class LayoutA, class LayoutB, class Out, bool kMayAdd>
struct Grouped {
  using Shape = cutlass::gemm::GroupProblemShape<cute::Shape<int, int, int>>;
  using Problem = typename Shape::UnderlyingProblemShape;
  using Element = cutlass::bfloat16_t;
  using Result = Out;
  using Source = std::conditional_t<kMayAdd, Out, void>;
  static constexpr bool kHasSource = kMayAdd;
  using LayoutD = cutlass::layout::RowMajor;
  static constexpr int kAlignIn = 8;
  static constexpr int kAlignOut = 16 / static_cast<int>(sizeof(Out));

  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, typename Schedule::TileShape,
      typename Schedule::ClusterShape, cutlass::epilogue::collective::EpilogueTileAuto, float,
      float, Source, LayoutD*, kAlignOut, Out, LayoutD*, kAlignOut, typename Schedule::Epilogue,
      cutlass::epilogue::fusion::LinearCombination<Out, float, Source>>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, LayoutA*, kAlignIn, Element,
      LayoutB*, kAlignIn, float, typename Schedule::TileShape, typename Schedule::ClusterShape,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
          sizeof(typename Epilogue::SharedStorage))>,
      typename Schedule::Mainloop>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<Shape, Mainloop, Epilogue>;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

  using StrideA = typename Kernel::InternalStrideA;
  using StrideB = typename Kernel::InternalStrideB;
  using StrideD = typename Kernel::InternalStrideD;

  // On the device: one entry for each expert.
  struct Arrays {
    Problem* problems;
    const Element **a, **b;
    Out** d;
    StrideA* stride_a;
    StrideB* stride_b;
    StrideD* stride_d;
  };
};

enum class RowsAre : uint8_t { kM, kK };  // which extent is the number of an expert's rows

struct GroupedExtents {
  RowsAre rows;
  int m, n, k;                  // the one that is the rows is ignored
  int64_t row_a, row_b, row_d;  // elements from one stored row to the next
};

// Strides of CUTLASS have one number that is not known at compile time.
template <class Stride>
__device__ Stride stored_rows(int64_t elements) {
  Stride stride{};
  if constexpr (cute::is_static_v<cute::remove_cvref_t<decltype(cute::get<0>(stride))>>)
    cute::get<1>(stride) = elements;
  else
    cute::get<0>(stride) = elements;
  return stride;
}

template <class G, class Out>
__global__ void fill_grouped_arrays(GroupedRows rows, GroupedExtents extents,
                                    GroupedOperand<const Bf16> a, GroupedOperand<const Bf16> b,
                                    GroupedOperand<Out> d, typename G::Arrays arrays) {
  const int e = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (e >= rows.experts) return;
  const int64_t first = rows.first_row[e];
  const int count = static_cast<int>(rows.first_row[e + 1] - rows.first_row[e]);
  const auto at = [&](auto operand) {
    return operand.base + first * operand.per_row + e * operand.per_expert;
  };
  // Without rows there is nothing to do: no tiles.
  const int m = extents.rows == RowsAre::kM || count == 0 ? count : extents.m;
  const int k = extents.rows == RowsAre::kK ? count : extents.k;
  arrays.problems[e] = typename G::Problem(m, extents.n, k);
  arrays.a[e] = reinterpret_cast<const typename G::Element*>(at(a));
  arrays.b[e] = reinterpret_cast<const typename G::Element*>(at(b));
  arrays.d[e] = reinterpret_cast<typename G::Result*>(at(d));
  arrays.stride_a[e] = stored_rows<typename G::StrideA>(extents.row_a);
  arrays.stride_b[e] = stored_rows<typename G::StrideB>(extents.row_b);
  arrays.stride_d[e] = stored_rows<typename G::StrideD>(extents.row_d);
}

// Lays out arrays one after the other; with a null base it only counts.
class ArrayLayout {
 public:
  explicit ArrayLayout(void* base) : base_(static_cast<unsigned char*>(base)) {}
  template <class T>
  T* take(size_t elements) {
    used_ = (used_ + kAlign - 1) / kAlign * kAlign;
    T* at = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += elements * sizeof(T);
    return at;
  }
  size_t used() const { return used_; }

 private:
  static constexpr size_t kAlign = 256;
  unsigned char* base_;
  size_t used_ = 0;
};

template <class G>
typename G::Arrays take_arrays(ArrayLayout& layout, size_t experts) {
  typename G::Arrays arrays{};
  arrays.problems = layout.take<typename G::Problem>(experts);
  arrays.a = layout.take<const typename G::Element*>(experts);
  arrays.b = layout.take<const typename G::Element*>(experts);
  arrays.d = layout.take<typename G::Result*>(experts);
  arrays.stride_a = layout.take<typename G::StrideA>(experts);
  arrays.stride_b = layout.take<typename G::StrideB>(experts);
  arrays.stride_d = layout.take<typename G::StrideD>(experts);
  return arrays;
}

template <class G, class Out>
void run_grouped(Cuda& cuda, const char* operation, GroupedRows rows, const GroupedExtents& extents,
                 GroupedOperand<const Bf16> a, GroupedOperand<const Bf16> b, GroupedOperand<Out> d,
                 bool add) {
  using Gemm = typename G::Gemm;
  if (rows.experts == 0) return;
  Cuda::Impl& impl = cuda.impl();
  // The same on every device of a machine; asking takes longer than a launch.
  static const int clusters =
      cutlass::KernelHardwareInfo::query_device_max_active_clusters<typename G::Kernel>();
  const cutlass::KernelHardwareInfo hardware{impl.ordinal, impl.multiprocessors, clusters};

  const auto experts = static_cast<size_t>(rows.experts);
  const auto arguments_for = [&](const typename G::Arrays& arrays) {
    typename Gemm::Arguments arguments{cutlass::gemm::GemmUniversalMode::kGrouped,
                                       {rows.experts, arrays.problems, nullptr},
                                       {arrays.a, arrays.stride_a, arrays.b, arrays.stride_b},
                                       {{}, nullptr, nullptr, arrays.d, arrays.stride_d},
                                       hardware};
    auto& sum = arguments.epilogue.thread;
    sum.alpha = 1.0F;
    sum.beta = add ? 1.0F : 0.0F;
    sum.dAlpha = {cute::_0{}, cute::_0{}, 0};
    sum.dBeta = {cute::_0{}, cute::_0{}, 0};
    if constexpr (G::kHasSource) {
      arguments.epilogue.ptr_C = const_cast<const typename G::Result**>(arrays.d);
      arguments.epilogue.dC = arrays.stride_d;
    }
    return arguments;
  };
  ArrayLayout counting(nullptr);
  const size_t workspace_bytes =
      Gemm::get_workspace_size(arguments_for(take_arrays<G>(counting, experts)));
  counting.take<unsigned char>(workspace_bytes);
  ArrayLayout layout(impl.scratch(counting.used()));
  const typename G::Arrays arrays = take_arrays<G>(layout, experts);
  auto* workspace = layout.take<unsigned char>(workspace_bytes);

  const unsigned threads = 64;
  const unsigned blocks = (static_cast<unsigned>(rows.experts) + threads - 1) / threads;
  fill_grouped_arrays<G, Out><<<blocks, threads, 0, impl.stream>>>(rows, extents, a, b, d, arrays);
  Gemm gemm;
  auto status = gemm.initialize(arguments_for(arrays), workspace, impl.stream);
  if (status == cutlass::Status::kSuccess) status = gemm.run(impl.stream);
  if (status != cutlass::Status::kSuccess)
    impl.failed(operation, cutlass::cutlassGetStatusString(status));
  impl.launched(operation);
}

}  // namespace holdfast::train::kernels
