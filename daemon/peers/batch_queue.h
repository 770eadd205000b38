// Messages that wait to be sent, already as JSON text, and the cutting of batches. Private to
// daemon/peers.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <utility>

#include "daemon/peers/wire.h"

namespace holdfast::daemon {

class BatchQueue {
 public:
  explicit BatchQueue(size_t limit) : limit_(limit) {}

  // False: full, and the message is not taken.
  [[nodiscard]] bool push(const boost::json::value& message) {
    if (messages_.size() >= limit_) return false;
    messages_.push_back(boost::json::serialize(message));
    return true;
  }
  bool empty() const { return messages_.empty(); }
  size_t size() const { return messages_.size(); }
  void clear() { messages_.clear(); }

  // The next messages as a JSON array, within kMaxBatch and kMaxBatchBytes; "[]" when there are
  // none.
  std::string take_batch() {
    std::string array = "[";
    for (size_t taken = 0; taken < kMaxBatch && !messages_.empty(); ++taken) {
      const std::string& next = messages_.front();
      if (taken > 0 && array.size() + next.size() > kMaxBatchBytes) break;
      if (taken > 0) array += ',';
      array += next;
      messages_.pop_front();
    }
    return array += ']';
  }

 private:
  const size_t limit_;
  std::deque<std::string> messages_;
};

}  // namespace holdfast::daemon
