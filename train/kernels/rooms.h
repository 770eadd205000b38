// Rooms of fixed size: in capacity mode each lane sends each lane as many rows whatever was chosen,
// so that no host has to know how many there are. What one lane sends another is a chunk: a head,
// which tells how many choices of every expert were kept, then a room for each expert that is
// hosted there, by ascending expert. Rows that hold no choice travel too and go nowhere.
//
// Choice `rank` of an expert with R slots, of which m choices are kept, goes to slot j where
// j m / R <= rank < (j + 1) m / R (rounded down), the same split as in plan_dispatch. An expert's
// slots are numbered by ascending lane; those of one lane share a room.
//
// Tables lie where the device computes; train/model/fixed_rooms.h makes them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace holdfast::train::kernels {

struct SendRooms {
  size_t lanes;                   // C
  size_t experts;                 // E
  const uint32_t* most_E;         // choices of one micro-batch that are kept
  const uint32_t* first_slot_E1;  // of each expert in what follows
  const uint32_t* room_S;         // the first row of the slot's room
  const uint32_t* room_begin_S;   // the expert's first slot in that room
  const uint32_t* chunk_C;        // the first row of what goes to a lane
};

struct ReceiveRooms {
  size_t lanes;              // C
  size_t hosted;             // H, experts of this lane, ascending
  size_t chunk_rows;         // that each lane sends here
  const uint32_t* expert_H;  // their ids
  const uint32_t* slots_H;   // R
  const uint32_t* begin_H;   // slots of this lane: begin .. end of R
  const uint32_t* end_H;
  const uint32_t* room_H1;  // first row of the room in a chunk; the end
  size_t rows() const { return lanes * chunk_rows; }
};

// place_in_rooms: row_of_choice, kNoRow for dropped choices, and the token of each row that has one;
//   other rows are not written.
// write_heads: min(counts, most) at the beginning of each chunk of `sent`, rows of row_bytes.
// read_heads: from the heads of what was received, how many rows of hosted expert h came from lane c; no
//   more than its room has, whatever stands there.
// place_received: with begin_HC1, the sums of these counts before each: the place of each received row
//   in expert order, then by lane, and the first row of each hosted expert.

}  // namespace holdfast::train::kernels
