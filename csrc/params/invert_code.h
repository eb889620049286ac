// What invert_code takes.
#pragma once

#include "params/fields.h"

namespace revelio {

#define REVELIO_INVERT_CODE(REQUIRED, OPTIONAL)      \
    REQUIRED(const int64_t *, indices) /* [B, k] */  \
    REQUIRED(int64_t *, offsets)       /* [n + 1] */ \
    REQUIRED(int64_t *, rows)          /* [B k] */   \
    REQUIRED(int64_t *, slots)         /* [B k] */   \
    REQUIRED(int64_t, B)                             \
    REQUIRED(int64_t, k)                             \
    REQUIRED(int64_t, n)

REVELIO_PARAMS(InvertCode, REVELIO_INVERT_CODE)

}  // namespace revelio
