#include "storage/replica/history.h"

namespace holdfast::storage {
namespace {

bool void_by(const StateVersion& state, const ViewBase& view) {
  if (view.epoch < state.made || state == view.base) return false;
  if (view.epoch == state.made) return state.version <= view.base.version;
  if (state.version != view.base.version) {
    return state.version > view.base.version || state.made > view.base.made;
  }
  return true;  // the same version, made by another line
}

}  // namespace

bool is_void(const StateVersion& state, std::span<const ViewBase> history) {
  if (state.version == Version(0)) return false;
  for (const ViewBase& view : history) {
    if (void_by(state, view)) return true;
  }
  return false;
}

}  // namespace holdfast::storage
