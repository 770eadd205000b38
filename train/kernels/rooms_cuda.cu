// Rooms of fixed size: one thread per choice, count or row.
#include "train/kernels/launch_cuda.cuh"

namespace holdfast::train::kernels {
namespace {

__device__ inline uint64_t first_of_slot(uint64_t j, uint64_t m, uint64_t slots) {
  return j * m / slots;
}
__device__ inline size_t thread_index() { return size_t{blockIdx.x} * kBlockThreads + threadIdx.x; }

__global__ void __launch_bounds__(kBlockThreads)
    place_in_rooms_kernel(size_t choices, unsigned top_k, SendRooms rooms,
                          const uint32_t* choices_NK, const uint32_t* rank_NK,
                          const uint32_t* counts_E, uint32_t* row_of_choice_NK,
                          uint32_t* token_of_row_R) {
  const size_t i = thread_index();
  if (i >= choices) return;
  const uint32_t e = choices_NK[i];
  const uint64_t rank = rank_NK[i], m = min(counts_E[e], rooms.most_E[e]);
  if (rank >= m) {
    row_of_choice_NK[i] = kNoRow;
    return;
  }
  const uint64_t first = rooms.first_slot_E1[e], slots = rooms.first_slot_E1[e + 1] - first;
  // The last j with j m / slots <= rank: j m < (rank + 1) slots.
  const uint64_t slot = first + ((rank + 1) * slots - 1) / m;
  const auto row = static_cast<uint32_t>(rooms.room_S[slot] + rank -
                                         first_of_slot(rooms.room_begin_S[slot], m, slots));
  row_of_choice_NK[i] = row;
  token_of_row_R[row] = static_cast<uint32_t>(i / top_k);
}

__global__ void __launch_bounds__(kBlockThreads)
    write_heads_kernel(SendRooms rooms, const uint32_t* counts_E, size_t row_bytes,
                       unsigned char* sent) {
  const size_t i = thread_index();
  if (i >= rooms.lanes * rooms.experts) return;
  const size_t lane = i / rooms.experts, e = i % rooms.experts;
  auto* const head = reinterpret_cast<uint32_t*>(sent + rooms.chunk_C[lane] * row_bytes);
  head[e] = min(counts_E[e], rooms.most_E[e]);
}

__global__ void __launch_bounds__(kBlockThreads)
    read_heads_kernel(ReceiveRooms rooms, size_t row_bytes, const unsigned char* received,
                      uint32_t* rows_HC) {
  const size_t i = thread_index();
  if (i >= rooms.hosted * rooms.lanes) return;
  const size_t h = i / rooms.lanes, lane = i % rooms.lanes;
  const auto* const head =
      reinterpret_cast<const uint32_t*>(received + lane * rooms.chunk_rows * row_bytes);
  const uint32_t kept = head[rooms.expert_H[h]], slots = rooms.slots_H[h];
  // Behind an exchange that was broken off the head holds anything; no more than the room has is used.
  rows_HC[i] = min(static_cast<uint32_t>(first_of_slot(rooms.end_H[h], kept, slots) -
                                         first_of_slot(rooms.begin_H[h], kept, slots)),
                   rooms.room_H1[h + 1] - rooms.room_H1[h]);
}

__global__ void __launch_bounds__(kBlockThreads)
    place_received_kernel(ReceiveRooms rooms, const uint32_t* begin_HC1, uint32_t* place_of_row_R,
                          uint32_t* first_row_H1) {
  const size_t r = thread_index();
  if (r <= rooms.hosted) first_row_H1[r] = begin_HC1[r * rooms.lanes];
  if (r >= rooms.lanes * rooms.chunk_rows) return;
  const size_t lane = r / rooms.chunk_rows;
  const auto row = static_cast<uint32_t>(r % rooms.chunk_rows);
  // The last room that begins at or before the row; the head lies before the first one.
  unsigned low = 0, high = static_cast<unsigned>(rooms.hosted);
  while (low < high) {
    const unsigned middle = (low + high) / 2;
    if (rooms.room_H1[middle] <= row)
      low = middle + 1;
    else
      high = middle;
  }
  uint32_t place = kNoRow;
  if (low > 0) {
    const uint32_t* const begin = begin_HC1 + (low - 1) * rooms.lanes + lane;
    const uint32_t in_room = row - rooms.room_H1[low - 1];
    if (in_room < begin[1] - begin[0]) place = begin[0] + in_room;
  }
  place_of_row_R[r] = place;
}

dim3 threads_for(size_t items) { return {blocks_for(items, kBlockThreads)}; }

}  // namespace

void place_in_rooms(Cuda& cuda, RouterShape shape, const SendRooms& rooms,
                    const uint32_t* choices_NK, const uint32_t* rank_NK, const uint32_t* counts_E,
                    uint32_t* row_of_choice_NK, uint32_t* token_of_row_R) {
  launch(cuda, "place_in_rooms", {threads_for(shape.choices())}, place_in_rooms_kernel,
         shape.choices(), shape.top_k, rooms, choices_NK, rank_NK, counts_E, row_of_choice_NK,
         token_of_row_R);
}

void write_heads(Cuda& cuda, const SendRooms& rooms, const uint32_t* counts_E, size_t row_bytes,
                 void* sent) {
  launch(cuda, "write_heads", {threads_for(rooms.lanes * rooms.experts)}, write_heads_kernel, rooms,
         counts_E, row_bytes, static_cast<unsigned char*>(sent));
}

void read_heads(Cuda& cuda, const ReceiveRooms& rooms, size_t row_bytes, const void* received,
                uint32_t* rows_HC) {
  launch(cuda, "read_heads", {threads_for(rooms.hosted * rooms.lanes)}, read_heads_kernel, rooms,
         row_bytes, static_cast<const unsigned char*>(received), rows_HC);
}

void place_received(Cuda& cuda, const ReceiveRooms& rooms, const uint32_t* begin_HC1,
                    uint32_t* place_of_row_R, uint32_t* first_row_H1) {
  const size_t items = rooms.rows() > rooms.hosted ? rooms.rows() : rooms.hosted + 1;
  launch(cuda, "place_received", {threads_for(items)}, place_received_kernel, rooms, begin_HC1,
         place_of_row_R, first_row_H1);
}

}  // namespace holdfast::train::kernels
