// What sparse_backward and its two halves take. One latent's entries are offsets[j] .. offsets[j + 1] of rows and
// slots, in row order.
#pragma once

#include "params/fields.h"

namespace revelio {

#define REVELIO_SPARSE_BACKWARD(REQUIRED, OPTIONAL)                                               \
    OPTIONAL(const float *, x)          /* [B, d] */                                              \
    OPTIONAL(const float *, values)     /* [B, k] */                                              \
    OPTIONAL(const float *, grad_x_hat) /* [B, d] */                                              \
    OPTIONAL(const float *, grad_aux)   /* [B, d], of the last k_aux slots; null without any */   \
    OPTIONAL(const float *, W_enc)      /* [n, d] */                                              \
    OPTIONAL(const float *, W_dec)      /* [n, d] */                                              \
    OPTIONAL(const float *, b_pre)      /* [d] */                                                 \
    REQUIRED(const int64_t *, indices)  /* [B, k] */                                              \
    REQUIRED(const int64_t *, offsets)  /* [n + 1] */                                             \
    REQUIRED(const int64_t *, rows)     /* [B k] */                                               \
    REQUIRED(const int64_t *, slots)    /* [B k] */                                               \
    OPTIONAL(const float *, dpre_given) /* [B, k] gradient of the pre-activations, where known */ \
    OPTIONAL(float *, dW_dec)           /* results from here on; null where not wanted */         \
    OPTIONAL(float *, dW_enc)                                                                     \
    OPTIONAL(float *, db_enc)                                                                     \
    OPTIONAL(float *, db_pre)                                                                     \
    OPTIONAL(float *, dvalues)                                                                    \
    OPTIONAL(float *, dx)                                                                         \
    REQUIRED(int64_t, B)                                                                          \
    REQUIRED(int64_t, k)                                                                          \
    OPTIONAL(int64_t, k_aux)                                                                      \
    REQUIRED(int64_t, d)                                                                          \
    REQUIRED(int64_t, n)                                                                          \
    OPTIONAL(bool, relu)                                                                          \
    OPTIONAL(int, threads)

REVELIO_PARAMS(SparseBackward, REVELIO_SPARSE_BACKWARD)

}  // namespace revelio
