// Inverted dropout (Srivastava et al., 2014): y = x/(1 − p) where an element's random word is at least p · 2^32, else 0. The words are
// Philox4x32-10 (Salmon et al., SC 2011): element 4i + j has word j at counter (i, op, step, step >> 32) under the key (seed,
// seed >> 32): the stream of crates/dora-tensor/src/rng.rs, to the bit.
//
// x, y: n elements of T, y may be x and is overwritten. address (4) of u32 in device memory = {seed, seed >> 32, step, step >> 32}, so
// that a captured step can be replayed; threshold = p · 2^32, scale = 1/(1 − p). Its own adjoint.
// Grid: sixteen bytes a thread and step. Traffic: 2 elements. Ten rounds of two 32-bit products for 4 elements: about 25
// integer operations an element, near the balance point of a card with 1 TB/s, below it on slower memory.
#include "common.cuh"

__device__ __forceinline__ uint4 philox(uint2 key, uint4 counter) {
    for (int round = 0; round < 10; round++) {
        const unsigned low0 = 0xD2511F53u * counter.x, high0 = __umulhi(0xD2511F53u, counter.x);
        const unsigned low1 = 0xCD9E8D57u * counter.z, high1 = __umulhi(0xCD9E8D57u, counter.z);
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

template <class T>
__device__ __forceinline__ void dropout(const T* x, T* y, const unsigned* address, unsigned op, unsigned threshold, float scale,
                                        long long n) {
    const uint2 key = make_uint2(ld_reused(address), ld_reused(address + 1));
    const unsigned step = ld_reused(address + 2), step_high = ld_reused(address + 3);
    for_elements<T>(n, [&](long long i, auto width) {
        constexpr int W = decltype(width)::value;
        float v[W];
        load(x + i, v);
        uint4 words;
        for (int j = 0; j < W; j++) {
            const long long at = i + j;
            if (j == 0 || at % 4 == 0) words = philox(key, make_uint4(unsigned(at / 4), op, step, step_high));
            const unsigned pick = unsigned(at % 4);
            const unsigned word = pick == 0 ? words.x : pick == 1 ? words.y : pick == 2 ? words.z : words.w;
            v[j] = word >= threshold ? v[j] * scale : 0.0f;
        }
        store(y + i, v);
        flops(W);
    });
}

extern "C" __global__ void dropout_f32(const float* x, float* y, const unsigned* address, unsigned op, unsigned threshold, float scale,
                                       long long n) {
    dropout(x, y, address, op, threshold, scale, n);
}
extern "C" __global__ void dropout_bf16(const bf16* x, bf16* y, const unsigned* address, unsigned op, unsigned threshold, float scale,
                                        long long n) {
    dropout(x, y, address, op, threshold, scale, n);
}
