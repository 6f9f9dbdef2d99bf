// What xgrammar says on std::cerr is kept for the log, and nothing else is.
//
// It has no other way to speak: `[hh:mm:ss] …/cpp/file.cc:line: text`, a whole line of one thread.
#pragma once

#include <string>
#include <vector>

namespace dsv4 {

// From here on; once a process is enough.
void keep_library_lines();
// The lines since the last time, the oldest of too many gone.
std::vector<std::string> take_library_lines();

}  // namespace dsv4
