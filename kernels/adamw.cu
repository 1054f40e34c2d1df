// AdamW (Loshchilov and Hutter, 2019) over all parameters in one launch, with PyTorch's arithmetic, as the CPU's. For step t from 1,
// gradient g, moments u and v:
//   g ← clip[1] · g, u ← β₁u + (1 − β₁)g, v ← β₂v + (1 − β₂)g², p ← p·(1 − lr·decay) − lr/(1 − β₁ᵗ) · u/(√v/√(1 − β₂ᵗ) + ε).
// And what clipping starts from: sum_of_squares: parts[b] = Σ g² over what block b takes, in f64, so that squares of finite numbers
// never overflow; reduce.cu's clip adds them. How gradients are cut depends on their lengths alone: results repeat to the bit.
//
// slots: a table of `count` parameters, twelve words each: the addresses of p, g, u and v (n elements of f32 each, aligned to 16; for
// sum_of_squares only g), n, the number of its settings, and its first block. p, u, v are updated in place. What changes from step to
// step is read from device memory, so that a captured step can be replayed: settings = eight for each kind, {1 − lr·decay, lr/(1 − β₁ᵗ),
// √(1 − β₂ᵗ), ε, β₁, β₂, 1 − β₁, 1 − β₂}, where the last two are rounded once, from f64; clip[1] = what reduce.cu's clip wrote, in f64.
// Where it is NaN nothing is written: the last good state stays.
//
// Grid: a block for each 4,096 elements of a parameter. Traffic: 28 bytes a parameter, 16 read and 12 written; 4 for its square.
// Bound by bandwidth; on cards with few f64 units the one f64 multiply-add an element still keeps up with f32 input.
#include "common.cuh"

constexpr int CHUNK = 4096;
constexpr int WORDS = 12; // of a slot

struct Slot {
    float* p;
    const float* g;
    float *u, *v;
    long long n;
    int settings, block;
};

// The slot that this block works on: the last one whose first block is not behind it.
__device__ __forceinline__ Slot slot_of_block(const unsigned* slots, int count) {
    int own = 0;
    for (int end = count; end - own > 1;) {
        const int middle = (own + end) / 2;
        (ld_reused(slots + middle * WORDS + 11) <= blockIdx.x ? own : end) = middle;
    }
    const uint4* at = reinterpret_cast<const uint4*>(slots + own * WORDS);
    const uint4 a = ld_reused(at), b = ld_reused(at + 1), c = ld_reused(at + 2);
    const auto address = [](unsigned low, unsigned high) { return reinterpret_cast<float*>(uintptr_t(low) | uintptr_t(high) << 32); };
    return {address(a.x, a.y), address(a.z, a.w), address(b.x, b.y), address(b.z, b.w), (long long)(c.x) | (long long)(c.y) << 32,
        int(c.z), int(c.w)};
}

// Calls step(first element, Width) for this block's part of a slot, as for_elements does for the whole of an array.
template <class Step>
__device__ __forceinline__ void for_chunk(const Slot& slot, Step step) {
    constexpr int W = PER16<float>;
    const long long start = (long long)(int(blockIdx.x) - slot.block) * CHUNK, left = slot.n - start;
    const int n = left < CHUNK ? int(left) : CHUNK;
    for (int i = threadIdx.x; i < n / W; i += blockDim.x) step(start + i * W, Width<W>());
    const int tail = n / W * W + threadIdx.x;
    if (tail < n) step(start + tail, Width<1>());
}

extern "C" __global__ void __launch_bounds__(256) sum_of_squares_f32(const unsigned* slots, double* parts, int count) {
    const Slot slot = slot_of_block(slots, count);
    double sum = 0.0;
    for_chunk(slot, [&](long long i, auto width) {
        constexpr int W = decltype(width)::value;
        float x[W];
        load(slot.g + i, x);
        for (int j = 0; j < W; j++) sum += double(x[j]) * x[j];
        flops(2 * W);
    });
    sum = block_sum(sum);
    if (threadIdx.x == 0) st(parts + blockIdx.x, sum);
}

extern "C" __global__ void __launch_bounds__(256) adamw_f32(const unsigned* slots, const float* settings, const double* clip, int count) {
    const float scale = float(ld_reused(clip + 1));
    if (scale != scale) return;
    const Slot slot = slot_of_block(slots, count);
    float of[8];
    load_reused(settings + 8 * slot.settings, of);
    const float keep = of[0], size = of[1], root = of[2], eps = of[3], beta1 = of[4], beta2 = of[5], rest1 = of[6], rest2 = of[7];
    for_chunk(slot, [&](long long i, auto width) {
        constexpr int W = decltype(width)::value;
        float value[W], gradient[W], first[W], second[W];
        load(slot.p + i, value);
        load(slot.g + i, gradient);
        load(slot.u + i, first);
        load(slot.v + i, second);
        for (int j = 0; j < W; j++) {
            const float d = gradient[j] * scale;
            first[j] = beta1 * first[j] + rest1 * d;
            second[j] = beta2 * second[j] + rest2 * d * d;
            value[j] = value[j] * keep - size * (first[j] / (sqrtf(second[j]) / root + eps));
        }
        store(slot.p + i, value);
        store(slot.u + i, first);
        store(slot.v + i, second);
        flops(14 * W);
    });
}
