// Products by cuBLASLt. It thinks in column-major matrices: a row-major [R, C] is its [C, R], so
// that y = x w^T is computed as y^T = w x^T and nothing is transposed in memory.
//
// A plan (descriptors and the algorithm that the library's heuristics put first) is made for a
// shape when it is met first and kept while it is used now and then: where each expert is a product
// of its own, there are as many shapes as numbers of rows. Of split sums only those through
// workspace are allowed, added in a fixed order, never in place with atomics: the same inputs give
// the same bits.
#include <algorithm>
#include <compare>
#include <cstdint>

#include "train/kernels/cublaslt_cuda.h"
#include "train/kernels/device_cuda.cuh"
#include "train/kernels/ops_cuda.h"
#include "train/kernels/recent.h"

namespace holdfast::train::kernels {
namespace {

// D [m, n] = A [m, k] B [k, n] + C, column-major; a transposed operand is stored the other way
// round.
struct ProductKey {
  uint64_t m, n, k;
  bool transpose_a, transpose_b;
  bool fp32;           // type of C and D
  bool in_place;       // C is D
  bool add;            // C is added
  uint32_t alignment;  // of every pointer, bytes
  auto operator<=>(const ProductKey&) const = default;
};

struct Plan {
  explicit Plan(const CublasLt& library) : lt(library) {}
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    for (cublasLtMatrixLayout_t layout : {a, b, d})
      if (layout != nullptr) lt.layout_destroy(layout);
    if (product != nullptr) lt.desc_destroy(product);
  }
  const CublasLt& lt;
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  size_t workspace = 0;
  cublasStatus_t status = CUBLAS_STATUS_NOT_INITIALIZED;
};

uint32_t alignment_of(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return address == 0 ? 256U : static_cast<uint32_t>(std::min<uintptr_t>(256, address & -address));
}

}  // namespace

struct GemmPlans {
  static constexpr size_t kMost = 4096;  // a few KB of host memory each
  Recent<ProductKey, Plan> plans{kMost};
};

namespace {

cublasStatus_t choose_algorithm(const CublasLt& lt, cublasLtHandle_t handle, const ProductKey& key,
                                Plan& plan) {
  cublasLtMatmulPreference_t preference = nullptr;
  if (auto status = lt.preference_create(&preference); status != CUBLAS_STATUS_SUCCESS)
    return status;
  const size_t workspace = Cuda::Impl::kProductWorkspace;
  const uint32_t reductions =
      CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
    if (status == CUBLAS_STATUS_SUCCESS)
      status = lt.preference_set(preference, what, &value, sizeof(value));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace);
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.alignment);
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  if (status == CUBLAS_STATUS_SUCCESS)
    status = lt.heuristic(handle, plan.product, plan.a, plan.b, plan.d, plan.d, preference, 1,
                          &best, &found);
  lt.preference_destroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (found == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  plan.algorithm = best.algo;
  plan.workspace = best.workspaceSize;
  return best.state;
}

cublasStatus_t describe(const CublasLt& lt, const ProductKey& key, Plan& plan) {
  cublasStatus_t status = lt.desc_create(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  const auto transpose = [&](cublasLtMatmulDescAttributes_t what, bool transposed) {
    const cublasOperation_t operation = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    if (status == CUBLAS_STATUS_SUCCESS)
      status = lt.desc_set(plan.product, what, &operation, sizeof(operation));
  };
  transpose(CUBLASLT_MATMUL_DESC_TRANSA, key.transpose_a);
  transpose(CUBLASLT_MATMUL_DESC_TRANSB, key.transpose_b);
  const auto layout = [&](cublasLtMatrixLayout_t& made, cudaDataType type, uint64_t rows,
                          uint64_t columns) {
    if (status == CUBLAS_STATUS_SUCCESS)
      status = lt.layout_create(&made, type, rows, columns, static_cast<int64_t>(rows));
  };
  layout(plan.a, CUDA_R_16BF, key.transpose_a ? key.k : key.m, key.transpose_a ? key.m : key.k);
  layout(plan.b, CUDA_R_16BF, key.transpose_b ? key.n : key.k, key.transpose_b ? key.k : key.n);
  layout(plan.d, key.fp32 ? CUDA_R_32F : CUDA_R_16BF, key.m, key.n);
  return status;
}

const Plan& plan_for(Cuda::Impl& impl, const ProductKey& key) {
  if (!impl.gemm_plans) impl.gemm_plans = std::make_shared<GemmPlans>();
  const auto [plan, is_new] = impl.gemm_plans->plans.get(key, *impl.blas);
  if (is_new) {
    plan.status = describe(*impl.blas, key, plan);
    if (plan.status == CUBLAS_STATUS_SUCCESS)
      plan.status = choose_algorithm(*impl.blas, impl.blas_handle, key, plan);
  }
  return plan;
}

struct Operands {
  const Bf16 *a, *b;
  const void* c;  // null: nothing is added
  void* d;
};

void product(Cuda& cuda, const char* operation, ProductKey key, const Operands& operands) {
  if (key.m == 0 || key.n == 0) return;
  Cuda::Impl& impl = cuda.impl();
  if (key.k == 0) {
    const size_t bytes = key.m * key.n * (key.fp32 ? sizeof(float) : sizeof(Bf16));
    if (operands.c == nullptr)
      zero_bytes(cuda, operands.d, bytes);
    else if (operands.c != operands.d)
      copy_bytes(cuda, operands.c, bytes, operands.d);
    return;
  }
  key.add = operands.c != nullptr;
  key.in_place = operands.c == nullptr || operands.c == operands.d;
  key.alignment = std::min({alignment_of(operands.a), alignment_of(operands.b),
                            alignment_of(operands.c), alignment_of(operands.d)});
  const Plan& plan = plan_for(impl, key);
  cublasStatus_t status = plan.status;
  if (status == CUBLAS_STATUS_SUCCESS) {
    const float alpha = 1, beta = key.add ? 1.0F : 0.0F;
    status = impl.blas->matmul(impl.blas_handle, plan.product, &alpha, operands.a, plan.a,
                               operands.b, plan.b, &beta, key.add ? operands.c : operands.d, plan.d,
                               operands.d, plan.d, &plan.algorithm, impl.product_workspace.data(),
                               plan.workspace, impl.stream);
  }
  if (status != CUBLAS_STATUS_SUCCESS) impl.failed(operation, impl.blas->status_string(status));
  impl.launched(operation);
}

ProductKey shape_of(uint64_t m, uint64_t n, uint64_t k, bool transpose_a, bool transpose_b,
                    bool fp32) {
  return {.m = m,
          .n = n,
          .k = k,
          .transpose_a = transpose_a,
          .transpose_b = transpose_b,
          .fp32 = fp32,
          .in_place = true,
          .add = false,
          .alignment = 256};
}

}  // namespace

void linear(Cuda& cuda, LinearShape shape, const Bf16* x_NI, const Bf16* w_OI, const Bf16* add_NO,
            Bf16* y_NO) {
  product(cuda, "linear", shape_of(shape.out, shape.rows, shape.in, true, false, false),
          {.a = w_OI, .b = x_NI, .c = add_NO, .d = y_NO});
}

void linear(Cuda& cuda, LinearShape shape, const Bf16* x_NI, const Bf16* w_OI, float* y_NO) {
  product(cuda, "linear", shape_of(shape.out, shape.rows, shape.in, true, false, true),
          {.a = w_OI, .b = x_NI, .c = nullptr, .d = y_NO});
}

void linear_input_gradient(Cuda& cuda, LinearShape shape, const Bf16* dy_NO, const Bf16* w_OI,
                           const Bf16* add_NI, Bf16* dx_NI) {
  product(cuda, "linear_input_gradient",
          shape_of(shape.in, shape.rows, shape.out, false, false, false),
          {.a = w_OI, .b = dy_NO, .c = add_NI, .d = dx_NI});
}

void linear_weight_gradient(Cuda& cuda, LinearShape shape, const Bf16* dy_NO, const Bf16* x_NI,
                            Into into, float* dw_OI) {
  product(cuda, "linear_weight_gradient",
          shape_of(shape.in, shape.out, shape.rows, false, true, true),
          {.a = x_NI, .b = dy_NO, .c = into == Into::kAdd ? dw_OI : nullptr, .d = dw_OI});
}

}  // namespace holdfast::train::kernels
