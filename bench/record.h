// What a benchmark puts on record: the file of its result, and where the result is from.
#pragma once

#include <filesystem>
#include <string>

#include "base/json.h"
#include "base/result.h"

namespace holdfast::bench {

// Asked before anything is measured, as a long run is lost when its file cannot be written. What is in the
// file stays; one that is not there is made. An empty path is none.
Status can_write(const std::filesystem::path& file);
// Instead of what is in it. When it fails, the text goes to the error stream, so that the run is not lost.
Status write_result(const std::filesystem::path& file, const std::string& text);

// As git prints one: 7 to 40 lower-case hexadecimal digits.
inline bool is_commit(const std::string& text) {
  return text.size() >= 7 && text.size() <= 40 &&
         text.find_first_not_of("0123456789abcdef") == std::string::npos;
}
// What is wrong with it; empty: nothing. For the option --commit.
inline std::string commit_complaint(const std::string& text) {
  return is_commit(text) ? std::string() : "7 to 40 hexadecimal digits, not " + text;
}

// Of a text like /proc/cpuinfo; empty when it names none.
std::string processor_of(const std::string& cpuinfo);
// The name of a policy of sched_getscheduler.
std::string scheduling_of(int policy);
// {"commit", "processor", "scheduling"} of this process, null where it is not known. Nodes and workers that
// this process starts have its scheduling policy.
boost::json::object origin(const std::string& commit);

}  // namespace holdfast::bench
