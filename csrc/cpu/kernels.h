// What each CPU kernel takes. Strides are in elements, all arrays dense, latents checked to lie in [0, n) beforehand.
// The kernels are compiled once per instruction set into a namespace of that name; dispatch.h picks one at load.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace revelio {

struct TopkEncode {
    const float *x, *W_enc, *b_enc, *b_pre;  // [B, d], [n, d], [n], [d]
    float *values;                           // [B, k]
    int64_t *indices;                        // [B, k]
    int64_t B, d, n, k;
    bool relu;
    bool bf16;  // round x - b_pre and W_enc to bfloat16 before multiplying
    int threads;
};

// What a screen left to be scored in float32, and the rows it gave up on, which were scored in float32 wholly.
struct ScreenCounts {
    int64_t rescored, fallback_rows;
};

struct SparseDecode {
    const float *values;
    const int64_t *indices;
    const float *W_dec, *b_pre;  // b_pre may be null
    const float *x;              // [B, d], subtracted from the sum; null: not
    float *out;                  // [B, d] x_hat, or x_hat - x
    float *squares;              // [B] sum of squares of each row of out; null: not wanted
    int64_t B, k, d;
    int threads;
};

// One latent's entries are offsets[j] .. offsets[j + 1] of rows and slots, in row order.
struct SparseBackward {
    const float *x, *values, *grad, *grad_aux;  // grad_aux belongs to the last k_aux slots; null without any
    const float *W_enc, *W_dec, *b_pre;
    const int64_t *indices, *offsets, *rows, *slots;
    const float *dpre_given;  // [B, k] gradient of the pre-activations, where it is known already; else null
    float *dW_dec, *dW_enc, *db_enc, *db_pre, *dvalues, *dx;  // outputs; null where not wanted
    int64_t B, k, k_aux, d, n;
    bool relu;
    int threads;
};

struct AdamStep {
    SparseBackward gradients;  // its outputs stay null: no gradient is stored
    float *W_enc, *W_dec, *b_enc, *b_pre;
    float *m_enc, *v_enc, *m_dec, *v_dec, *m_b_enc, *v_b_enc, *m_b_pre, *v_b_pre;
    int64_t step;
    double lr, beta1, beta2, eps;
    bool project, unit_norm;
    const float *scalars;  // step size and root of the second bias correction, instead of step and lr; or null
    uint8_t *settled;      // [n] 1: no step changes a bit of the latent until it has an entry; null: not kept
};

struct TopActivationsUpdate {
    float *top_values;       // [n, m]
    int64_t *top_image_ids;  // [n, m]
    double *sums;
    int64_t *counts;
    const float *values;
    const int64_t *image_ids, *offsets, *rows, *slots;
    int64_t n, m, k;
    int threads;
};

typedef ScreenCounts (*Screener)(const TopkEncode &);

#define REVELIO_KERNELS(isa)                                   \
    namespace isa {                                            \
    void topk_encode(const TopkEncode &);                      \
    ScreenCounts topk_few(const TopkEncode &);                 \
    void sparse_decode(const SparseDecode &);                  \
    void sparse_backward(const SparseBackward &);              \
    void adam_unit_norm_step(const AdamStep &);                \
    void top_activations_update(const TopActivationsUpdate &); \
    }

REVELIO_KERNELS(baseline)
#if defined(__x86_64__) || defined(_M_X64)
REVELIO_KERNELS(avx2)
REVELIO_KERNELS(avx512)
namespace avx512 {
// Rows it gives up on go through the other screen, where there is one. Needs AVX512-VNNI as well.
ScreenCounts topk_screen_int8(const TopkEncode &, Screener next);
ScreenCounts topk_screen_bf16(const TopkEncode &);  // these two, AVX512-BF16
void topk_encode_bf16(const TopkEncode &);
ScreenCounts topk_few_bf16(const TopkEncode &);
}  // namespace avx512
namespace amx {
using avx512::topk_encode;
ScreenCounts topk_screen_int8(const TopkEncode &, Screener next);
ScreenCounts topk_screen_bf16(const TopkEncode &);
void topk_encode_bf16(const TopkEncode &);
ScreenCounts topk_few_bf16(const TopkEncode &);
const char *wrong_sums();  // which sums of known products come out wrong; null where none do
}  // namespace amx
#endif

// Throws std::bad_alloc, whose constructor is an inline function: compiled here, AVX-512 code could serve everyone.
[[noreturn]] void out_of_memory();

void invert_code(const int64_t *indices, int64_t entries, int64_t k, int64_t n, int64_t *offsets, int64_t *rows,
                 int64_t *slots);

// Rows of a store that is cut into files: file s holds rows starts[s] .. starts[s + 1], densely from byte bases[s].
struct ReadRows {
    const int64_t *bases, *starts;  // [files], [files + 1]
    const int64_t *rows, *places;   // rows rising; rows[i] goes to row places[i] of out
    char *out;
    int64_t count, row_bytes;
};

constexpr int FILE_ENDED = -1;

// The file that could not be read and errno or FILE_ENDED; error 0 when all went well.
struct ReadFailure {
    int64_t shard;
    int error;
};

ReadFailure read_rows(const ReadRows &, const std::vector<std::string> &paths);

}  // namespace revelio
