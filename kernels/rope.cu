// Rotary position embedding (Su et al., 2021) in the halves layout of Hugging Face's Llama: in every head of 2·half elements, a = x[i]
// and b = x[i + half] become a·c − b·s and b·c + a·s, with c and s the cosine and sine of position · inv_freq[i]. Backward turns
// back: direction −1.
//
// Shapes: x, y (rows, heads · 2 · half) of T, y may be x; positions (rows) of u32; cosines, sines (known, half) of f32; a
// position beyond them gives NaN.
// Grid: a block a row, a thread per group of pairs. y is overwritten. Arithmetic is f32, rounded once.
// Traffic: 2 elements; a row's angles serve all of its heads. Bound by bandwidth.
#include "common.cuh"

template <int W, class T>
__device__ __forceinline__ void turn(const T* x, const unsigned* positions, const float* cosines, const float* sines, T* y, int known,
                                     int heads, int half, float direction) {
    const unsigned position = ld_reused(positions + blockIdx.x);
    const size_t start = size_t(blockIdx.x) * heads * 2 * half, angles = size_t(position) * half;
    const int groups = half / W;
    for (int g = threadIdx.x; g < heads * groups; g += blockDim.x) {
        const int i = g % groups * W;
        const size_t at = start + size_t(g / groups) * 2 * half + i;
        float a[W], b[W], c[W], s[W], low[W], high[W];
        load(x + at, a);
        load(x + at + half, b);
        if (position < unsigned(known)) {
            load_reused(cosines + angles + i, c);
            load_reused(sines + angles + i, s);
        } else {
            for (int j = 0; j < W; j++) c[j] = s[j] = nanf("");
        }
        for (int j = 0; j < W; j++) {
            const float turned = s[j] * direction;
            low[j] = a[j] * c[j] - b[j] * turned;
            high[j] = b[j] * c[j] + a[j] * turned;
        }
        store(y + at, low);
        store(y + at + half, high);
        flops(6 * W);
    }
}

template <class T>
__device__ __forceinline__ void rope(const T* x, const unsigned* positions, const float* cosines, const float* sines, T* y, int known,
                                     int heads, int half, float direction) {
    if (half % PER16<T> == 0) turn<PER16<T>>(x, positions, cosines, sines, y, known, heads, half, direction);
    else turn<1>(x, positions, cosines, sines, y, known, heads, half, direction);
}

extern "C" __global__ void rope_f32(const float* x, const unsigned* positions, const float* cosines, const float* sines, float* y,
                                    int known, int heads, int half, float direction) {
    rope(x, positions, cosines, sines, y, known, heads, half, direction);
}
extern "C" __global__ void rope_bf16(const bf16* x, const unsigned* positions, const float* cosines, const float* sines, bf16* y,
                                     int known, int heads, int half, float direction) {
    rope(x, positions, cosines, sines, y, known, heads, half, direction);
}
