// What this machine can do at most, for bench/: multiply-adds of each unit on random data from L1 cache, and bytes a
// second of memory streams. No kernel uses it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace revelio {

struct Limit {
    double rate;      // operations (two a multiply-add), bytes, or cycles of one core: a second, all threads together
    double checksum;  // of what the last round computed; it depends on the seed
};

// Names for limit() that this processor has: units as bits-registers, "read" and "update" for streams, "cycles".
std::vector<std::string> limit_names();

// Runs all threads at once for that many seconds; a stream, over that many bytes in all. Throws std::invalid_argument
// for a name that is not among limit_names().
Limit limit(const std::string &name, double seconds, int threads, uint32_t seed, int64_t bytes);

}  // namespace revelio
