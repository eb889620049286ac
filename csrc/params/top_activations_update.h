// What top_activations_update takes.
#pragma once

#include "params/fields.h"

namespace revelio {

#define REVELIO_TOP_ACTIVATIONS_UPDATE(REQUIRED, OPTIONAL) \
    REQUIRED(float *, state_values)      /* [n, m] */      \
    REQUIRED(int64_t *, state_image_ids) /* [n, m] */      \
    REQUIRED(double *, sums)             /* [n] */         \
    REQUIRED(int64_t *, counts)          /* [n] */         \
    REQUIRED(const float *, values)      /* [B, k] */      \
    REQUIRED(const int64_t *, indices)   /* [B, k] */      \
    REQUIRED(const int64_t *, image_ids) /* [B] */         \
    REQUIRED(const int64_t *, offsets)   /* [n + 1] */     \
    REQUIRED(const int64_t *, rows)      /* [B k] */       \
    REQUIRED(const int64_t *, slots)     /* [B k] */       \
    REQUIRED(int64_t, B)                                   \
    REQUIRED(int64_t, k)                                   \
    REQUIRED(int64_t, n)                                   \
    REQUIRED(int64_t, m)                                   \
    OPTIONAL(int, threads)

REVELIO_PARAMS(TopActivationsUpdate, REVELIO_TOP_ACTIVATIONS_UPDATE)

}  // namespace revelio
