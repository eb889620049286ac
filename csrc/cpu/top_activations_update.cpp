// top_activations_update: a sorted list of m places per latent; one comparison rejects most activations.
#include "cpu/kernels.h"

namespace revelio {
namespace REVELIO_ISA {

static inline bool before(float value, int64_t id, float other, int64_t other_id) {
    return value > other || (value == other && id < other_id);
}

static void insert(float *values, int64_t *ids, int64_t m, float value, int64_t id) {
    if (ids[m - 1] >= 0 && !before(value, id, values[m - 1], ids[m - 1])) return;
    // Where the image is listed already, its place is given up if the new activation is larger; else the last place is.
    int64_t place = 0;
    while (place < m - 1 && ids[place] >= 0 && ids[place] != id) ++place;
    if (ids[place] == id) {
        if (!(value > values[place])) return;
    } else {
        place = m - 1;
        while (place > 0 && ids[place - 1] < 0) --place;
    }
    for (; place > 0 && before(value, id, values[place - 1], ids[place - 1]); --place) {
        values[place] = values[place - 1];
        ids[place] = ids[place - 1];
    }
    values[place] = value;
    ids[place] = id;
}

void top_activations_update(const TopActivationsUpdate &p) {
#pragma omp parallel for num_threads(p.threads) schedule(dynamic, 256)
    for (int64_t j = 0; j < p.n; ++j) {
        for (int64_t e = p.offsets[j]; e < p.offsets[j + 1]; ++e) {
            const float value = p.values[p.rows[e] * p.k + p.slots[e]];
            if (!(value > 0)) continue;
            p.sums[j] += value;
            p.counts[j] += 1;
            if (p.m > 0)
                insert(p.state_values + j * p.m, p.state_image_ids + j * p.m, p.m, value, p.image_ids[p.rows[e]]);
        }
    }
}

}  // namespace REVELIO_ISA
}  // namespace revelio
