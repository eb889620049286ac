// What sparse_decode takes, and sparse_residual.
#pragma once

#include "params/fields.h"

namespace revelio {

#define REVELIO_SPARSE_DECODE(REQUIRED, OPTIONAL)                                  \
    REQUIRED(const float *, values)    /* [B, k] */                                \
    REQUIRED(const int64_t *, indices) /* [B, k] */                                \
    REQUIRED(const float *, W_dec)     /* [n, d] */                                \
    REQUIRED(const float *, b_pre)     /* [d] */                                   \
    OPTIONAL(const float *, x)         /* [B, d], subtracted from the sum */       \
    REQUIRED(float *, out)             /* [B, d] x_hat, or x_hat - x */            \
    OPTIONAL(float *, squares)         /* [B] sum of squares of each row of out */ \
    REQUIRED(int64_t, B)                                                           \
    REQUIRED(int64_t, k)                                                           \
    REQUIRED(int64_t, d)                                                           \
    REQUIRED(int64_t, n)                                                           \
    REQUIRED(int, threads)

REVELIO_PARAMS(SparseDecode, REVELIO_SPARSE_DECODE)

}  // namespace revelio
