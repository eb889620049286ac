// What adam_unit_norm_step takes: the fields of SparseBackward, whose results stay null (no gradient is stored), and
// these.
#pragma once

#include "params/sparse_backward.h"

namespace revelio {

#define REVELIO_ADAM_STATE(REQUIRED, OPTIONAL)                                                                  \
    REQUIRED(float *, W_enc)                                                                                    \
    REQUIRED(float *, W_dec)                                                                                    \
    REQUIRED(float *, b_enc)                                                                                    \
    REQUIRED(float *, b_pre)                                                                                    \
    REQUIRED(float *, m_enc)                                                                                    \
    REQUIRED(float *, v_enc)                                                                                    \
    REQUIRED(float *, m_dec)                                                                                    \
    REQUIRED(float *, v_dec)                                                                                    \
    REQUIRED(float *, m_b_enc)                                                                                  \
    REQUIRED(float *, v_b_enc)                                                                                  \
    REQUIRED(float *, m_b_pre)                                                                                  \
    REQUIRED(float *, v_b_pre)                                                                                  \
    REQUIRED(int64_t, step)                                                                                     \
    REQUIRED(double, lr)                                                                                        \
    REQUIRED(double, beta1)                                                                                     \
    REQUIRED(double, beta2)                                                                                     \
    REQUIRED(double, eps)                                                                                       \
    REQUIRED(bool, project)                                                                                     \
    REQUIRED(bool, unit_norm)                                                                                   \
    OPTIONAL(const float *, scalars)     /* step size, root of the second bias correction: not step and lr */   \
    OPTIONAL(uint8_t *, skip_mask)       /* [n] 1: no step changes a bit of the latent until it has an entry */ \
    OPTIONAL(uint16_t *, shadow_weights) /* [n, d] W_enc in bfloat16; this and the next two on a GPU */         \
    OPTIONAL(float *, shadow_norms)      /* [n] of each row of W_enc */                                         \
    OPTIONAL(float *, shadow_residuals)  /* [n] norm of what rounding took off each row */

REVELIO_PARAMS(AdamState, REVELIO_ADAM_STATE)

struct AdamStep : AdamState {
    SparseBackward gradients;
};

template <typename Visit>
void visit_fields(AdamStep &params, Visit &visit) {
    visit_fields(params.gradients, visit);
    visit_fields(static_cast<AdamState &>(params), visit);
}

}  // namespace revelio
