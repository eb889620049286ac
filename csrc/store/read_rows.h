// Rows of a store by positioned reads.
#pragma once

#include <string>
#include <vector>

#include "params/fields.h"

namespace revelio {

// The store is cut into files: file s holds rows starts[s] .. starts[s + 1], densely from byte bases[s].
#define REVELIO_READ_ROWS(REQUIRED, OPTIONAL)                                             \
    REQUIRED(const int64_t *, bases)  /* [files] */                                       \
    REQUIRED(const int64_t *, starts) /* [files + 1] */                                   \
    REQUIRED(const int64_t *, rows)   /* [count], rising */                               \
    REQUIRED(const int64_t *, places) /* [count]: rows[i] goes to row places[i] of out */ \
    REQUIRED(char *, out)             /* [count, row_bytes] */                            \
    REQUIRED(int64_t, count)                                                              \
    REQUIRED(int64_t, row_bytes)

REVELIO_PARAMS(ReadRows, REVELIO_READ_ROWS)

constexpr int FILE_ENDED = -1;

// The file that could not be read and errno or FILE_ENDED; error 0 when all went well.
struct ReadFailure {
    int64_t shard;
    int error;
};

ReadFailure read_rows(const ReadRows &, const std::vector<std::string> &paths);

}  // namespace revelio
