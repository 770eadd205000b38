// Embedding: rows by token. The table's gradient sums equal tokens in the order of n without
// atomics: tokens are sorted, stable, and cut into chunks of kChunk. A chunk writes the tokens that
// begin and end in it; for one that goes on in the next chunk it leaves a partial sum, and a second
// pass adds those in the order of the chunks. So a token as frequent as a byte is shared by many
// blocks.
#include <cub/device/device_radix_sort.cuh>

#include "train/kernels/launch_cuda.cuh"

namespace holdfast::train::kernels {
namespace {

constexpr unsigned kInFlight = 4;  // packs of a row that a lane loads before it stores them

template <unsigned W>
__global__ void __launch_bounds__(kBlockThreads)
    embedding_kernel(size_t rows, unsigned width, const int32_t* tokens_N, const Bf16* table_VD,
                     Bf16* x_ND) {
  const size_t n = row_of_warp();
  if (n >= rows) return;
  const Bf16* const from = table_VD + static_cast<size_t>(tokens_N[n]) * width;
  Bf16* const to = x_ND + n * width;
  const unsigned packs = width / W;
  for (unsigned base = 0; base < packs; base += kInFlight * kWarpSize) {
    Pack<W> kept[kInFlight];
    each_pack<kInFlight>(packs - base, [&](unsigned i, unsigned j) {
      kept[j] = load_pack<W>(from + (base + i) * W);
    });
    each_pack<kInFlight>(packs - base,
                         [&](unsigned i, unsigned j) { store_pack(to + (base + i) * W, kept[j]); });
  }
}

__global__ void number_kernel(unsigned count, uint32_t* values) {
  const unsigned i = blockIdx.x * kBlockThreads + threadIdx.x;
  if (i < count) values[i] = i;
}

constexpr unsigned kChunk = 64;     // sorted positions
constexpr unsigned kColumns = 128;  // threads, and packs of columns, of one block
constexpr unsigned kAhead = 8;      // rows that a thread loads before it adds them

struct Sorted {
  unsigned count;            // N
  const uint32_t* tokens_N;  // ascending
  const uint32_t* rows_N;    // n of each
};

// partials: of each chunk, the sum of the token that came from the chunk before, then of the one
// that begins in it and goes on.
template <unsigned W>
__global__ void __launch_bounds__(kColumns)
    sum_chunks_kernel(Sorted sorted, unsigned width, const Bf16* dx_ND, bool add,
                      float* partials_C2D, float* dtable_VD) {
  __shared__ uint32_t tokens[kChunk];
  __shared__ uint32_t rows[kChunk];
  const unsigned begin = blockIdx.x * kChunk;
  const unsigned count = min(kChunk, sorted.count - begin);
  for (unsigned i = threadIdx.x; i < count; i += kColumns) {
    tokens[i] = sorted.tokens_N[begin + i];
    rows[i] = sorted.rows_N[begin + i];
  }
  __syncthreads();
  const unsigned column = (blockIdx.y * kColumns + threadIdx.x) * W;
  if (column >= width) return;
  const bool from_before = begin > 0 && sorted.tokens_N[begin - 1] == tokens[0];
  const bool goes_on =
      begin + count < sorted.count && sorted.tokens_N[begin + count] == tokens[count - 1];

  float sum[W] = {};
  unsigned run = 0;  // where the token being summed begins
  for (unsigned base = 0; base < count; base += kAhead) {
    Pack<W> kept[kAhead];
#pragma unroll
    for (unsigned j = 0; j < kAhead; ++j)
      if (base + j < count) kept[j] = load_pack<W>(dx_ND + size_t{rows[base + j]} * width + column);
#pragma unroll
    for (unsigned j = 0; j < kAhead; ++j) {
      const unsigned i = base + j;
      if (i >= count) break;
      float values[W];
      unpack(kept[j], values);
#pragma unroll
      for (unsigned w = 0; w < W; ++w) sum[w] += values[w];
      const bool last = i + 1 == count;
      if (!last && tokens[i + 1] == tokens[i]) continue;
      const bool partial = (run == 0 && from_before) || (last && goes_on);
      float* to = dtable_VD + size_t{tokens[i]} * width + column;
      if (partial) {
        const size_t slot = size_t{blockIdx.x} * 2 + (run == 0 && from_before ? 0 : 1);
        to = partials_C2D + slot * width + column;
      } else if (add) {
        float now[W];
        load_floats(to, now);
#pragma unroll
        for (unsigned w = 0; w < W; ++w) sum[w] += now[w];
      }
      store_floats(to, sum);
#pragma unroll
      for (unsigned w = 0; w < W; ++w) sum[w] = 0;
      run = i + 1;
    }
  }
}

// The chunk in which a token begins that goes on adds its partial sums.
template <unsigned W>
__global__ void __launch_bounds__(kColumns)
    sum_partials_kernel(Sorted sorted, unsigned width, const float* partials_C2D, bool add,
                        float* dtable_VD) {
  const unsigned begin = blockIdx.x * kChunk;
  const unsigned next = begin + kChunk;
  if (next >= sorted.count) return;
  const uint32_t token = sorted.tokens_N[next - 1];
  if (sorted.tokens_N[next] != token) return;
  if (begin > 0 && sorted.tokens_N[begin - 1] == token) return;  // it began before
  const unsigned column = (blockIdx.y * kColumns + threadIdx.x) * W;
  if (column >= width) return;
  float sum[W], more[W];
  load_floats(partials_C2D + (size_t{blockIdx.x} * 2 + 1) * width + column, sum);
  // How many chunks it goes on for: all of a chunk's partial sums are there, so loads need not
  // wait.
  unsigned end = blockIdx.x + 1;
  while (size_t{end} * kChunk < sorted.count && sorted.tokens_N[end * kChunk] == token) ++end;
#pragma unroll 8
  for (unsigned chunk = blockIdx.x + 1; chunk < end; ++chunk) {
    load_floats(partials_C2D + size_t{chunk} * 2 * width + column, more);
#pragma unroll
    for (unsigned w = 0; w < W; ++w) sum[w] += more[w];
  }
  float* const to = dtable_VD + size_t{token} * width + column;
  if (add) {
    load_floats(to, more);
#pragma unroll
    for (unsigned w = 0; w < W; ++w) sum[w] += more[w];
  }
  store_floats(to, sum);
}

// Parts of one piece of scratch memory, each on 256 bytes.
class Layout {
 public:
  size_t add(size_t bytes) {
    const size_t at = bytes_;
    bytes_ += (bytes + 255) / 256 * 256;
    return at;
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

int bits_of(size_t values) {
  int bits = 1;
  while (bits < 32 && (size_t{1} << bits) < values) ++bits;
  return bits;
}

cudaError_t sort_by_token(Cuda& cuda, void* temporary, size_t& temporary_bytes, size_t vocabulary,
                          unsigned count, const int32_t* tokens_N, uint32_t* sorted_N,
                          const uint32_t* numbers_N, uint32_t* rows_N) {
  // Tokens are not negative: their bits are the key.
  return cub::DeviceRadixSort::SortPairs(
      temporary, temporary_bytes, reinterpret_cast<const uint32_t*>(tokens_N), sorted_N, numbers_N,
      rows_N, count, 0, bits_of(vocabulary), cuda.impl().stream);
}

}  // namespace

void embedding(Cuda& cuda, RowShape shape, const int32_t* tokens_N, const Bf16* table_VD,
               Bf16* x_ND) {
  with_pack(is_wide(shape.width, {table_VD, x_ND}), [&](auto pack_width) {
    launch(cuda, "embedding", {warps_for(shape.rows)},
           embedding_kernel<decltype(pack_width)::value>, shape.rows, shape.width, tokens_N,
           table_VD, x_ND);
  });
}

void embedding_weight_gradient(Cuda& cuda, RowShape shape, size_t vocabulary,
                               const int32_t* tokens_N, const Bf16* dx_ND, Into into,
                               float* dtable_VD) {
  constexpr const char* kOperation = "embedding_weight_gradient";
  if (into == Into::kOverwrite) zero(cuda, dtable_VD, vocabulary * shape.width);
  if (shape.rows == 0) return;
  const unsigned count = static_cast<unsigned>(shape.rows);
  const unsigned chunks = blocks_for(count, kChunk);
  size_t temporary_bytes = 0;
  cudaError_t error = sort_by_token(cuda, nullptr, temporary_bytes, vocabulary, count, tokens_N,
                                    nullptr, nullptr, nullptr);
  if (error != cudaSuccess) return cuda.impl().failed(kOperation, cudaGetErrorString(error));
  Layout layout;
  const size_t numbers_at = layout.add(count * sizeof(uint32_t));
  const size_t sorted_at = layout.add(count * sizeof(uint32_t));
  const size_t rows_at = layout.add(count * sizeof(uint32_t));
  const size_t partials_at = layout.add(size_t{chunks} * 2 * shape.width * sizeof(float));
  const size_t temporary_at = layout.add(temporary_bytes);
  auto* const scratch = cuda.impl().scratch_of<unsigned char>(layout.bytes());
  auto* const numbers_N = reinterpret_cast<uint32_t*>(scratch + numbers_at);
  auto* const sorted_N = reinterpret_cast<uint32_t*>(scratch + sorted_at);
  auto* const rows_N = reinterpret_cast<uint32_t*>(scratch + rows_at);
  auto* const partials_C2D = reinterpret_cast<float*>(scratch + partials_at);

  launch(cuda, kOperation, {dim3(blocks_for(count, kBlockThreads))}, number_kernel, count,
         numbers_N);
  error = sort_by_token(cuda, scratch + temporary_at, temporary_bytes, vocabulary, count, tokens_N,
                        sorted_N, numbers_N, rows_N);
  if (error != cudaSuccess) return cuda.impl().failed(kOperation, cudaGetErrorString(error));

  const Sorted sorted = {count, sorted_N, rows_N};
  const bool add = into == Into::kAdd;
  with_pack(is_wide(shape.width, {dx_ND, dtable_VD}), [&](auto pack_width) {
    constexpr unsigned W = decltype(pack_width)::value;
    const Launch how = {dim3(chunks, blocks_for(shape.width, size_t{kColumns} * W)), kColumns};
    launch(cuda, kOperation, how, sum_chunks_kernel<W>, sorted, shape.width, dx_ND, add,
           partials_C2D, dtable_VD);
    launch(cuda, kOperation, how, sum_partials_kernel<W>, sorted, shape.width, partials_C2D, add,
           dtable_VD);
  });
}

}  // namespace holdfast::train::kernels
