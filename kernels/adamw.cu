// AdamW (Loshchilov and Hutter, 2019) with PyTorch's arithmetic, as the CPU's. For step t from 1, gradient g, moments u and v:
//   g ← clip[1] · g, u ← β₁u + (1 − β₁)g, v ← β₂v + (1 − β₂)g², p ← p·(1 − lr·decay) − lr/(1 − β₁ᵗ) · u/(√v/√(1 − β₂ᵗ) + ε).
//
// p, g, u, v: n elements of f32; p, u, v are updated in place. What changes from step to step is read from device memory, so that a
// captured step can be replayed: settings = {1 − lr·decay, lr/(1 − β₁ᵗ), √(1 − β₂ᵗ), ε, β₁, β₂, 1 − β₁, 1 − β₂},
// where the last two are rounded once, from f64; clip[1] = what reduce.cu's clip wrote, in f64. Where it is NaN nothing is written:
// the last good state stays.
// Grid: sixteen bytes a thread and step. Traffic: 28 bytes a parameter, 16 read and 12 written. Bound by bandwidth.
#include "common.cuh"

extern "C" __global__ void adamw_f32(float* p, const float* g, float* u, float* v, const float* settings, const double* clip,
                                     long long n) {
    const float scale = float(ld_reused(clip + 1));
    if (scale != scale) return;
    const float keep = ld_reused(settings), size = ld_reused(settings + 1), root = ld_reused(settings + 2),
                eps = ld_reused(settings + 3), beta1 = ld_reused(settings + 4), beta2 = ld_reused(settings + 5),
                rest1 = ld_reused(settings + 6), rest2 = ld_reused(settings + 7);
    for_elements<float>(n, [&](long long i, auto width) {
        constexpr int W = decltype(width)::value;
        float value[W], gradient[W], first[W], second[W];
        load(p + i, value);
        load(g + i, gradient);
        load(u + i, first);
        load(v + i, second);
        for (int j = 0; j < W; j++) {
            const float d = gradient[j] * scale;
            first[j] = beta1 * first[j] + rest1 * d;
            second[j] = beta2 * second[j] + rest2 * d * d;
            value[j] = value[j] * keep - size * (first[j] / (sqrtf(second[j]) / root + eps));
        }
        store(p + i, value);
        store(u + i, first);
        store(v + i, second);
        flops(14 * W);
    });
}
