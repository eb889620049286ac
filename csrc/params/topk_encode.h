// What topk_encode takes.
#pragma once

#include "params/fields.h"

namespace revelio {

#define REVELIO_TOPK_ENCODE(REQUIRED, OPTIONAL)                                         \
    REQUIRED(const float *, x)     /* [B, d] */                                         \
    REQUIRED(const float *, W_enc) /* [n, d] */                                         \
    REQUIRED(const float *, b_enc) /* [n] */                                            \
    REQUIRED(const float *, b_pre) /* [d] */                                            \
    REQUIRED(float *, values)      /* [B, k] */                                         \
    REQUIRED(int64_t *, indices)   /* [B, k] */                                         \
    REQUIRED(int64_t, B)                                                                \
    REQUIRED(int64_t, d)                                                                \
    REQUIRED(int64_t, n)                                                                \
    REQUIRED(int64_t, k)                                                                \
    REQUIRED(bool, relu)                                                                \
    REQUIRED(bool, bf16) /* round x - b_pre and W_enc to bfloat16 before multiplying */ \
    REQUIRED(int, threads)

REVELIO_PARAMS(TopkEncode, REVELIO_TOPK_ENCODE)

// What a screen left to be scored in float32, and the rows it gave up on, which were scored in float32 wholly.
struct ScreenCounts {
    int64_t rescored, fallback_rows;
};

typedef ScreenCounts (*Screener)(const TopkEncode &);

}  // namespace revelio
