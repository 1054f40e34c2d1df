// Element types: y = x, rounded to nearest even where y has fewer bits; a NaN becomes 0x7FFF. f32, bf16 and f16, each to each.
//
// x, y: n elements that do not overlap; y is overwritten. Grid: eight elements a thread and step: sixteen bytes of a 16-bit type, of which there is one in every pair.
// Traffic: 6 bytes an element with f32, 4 without. Bound by bandwidth.
#include "common.cuh"

template <class From, class To>
__device__ __forceinline__ void cast(const From* x, To* y, long long n) {
    for_elements<bf16>(n, [&](long long i, auto width) {
        constexpr int W = decltype(width)::value;
        float v[W];
        load(x + i, v);
        store(y + i, v);
    });
}

extern "C" __global__ void cast_from_f32_bf16(const float* x, bf16* y, long long n) { cast(x, y, n); }
extern "C" __global__ void cast_from_f32_f16(const float* x, f16* y, long long n) { cast(x, y, n); }
extern "C" __global__ void cast_from_bf16_f32(const bf16* x, float* y, long long n) { cast(x, y, n); }
extern "C" __global__ void cast_from_bf16_f16(const bf16* x, f16* y, long long n) { cast(x, y, n); }
extern "C" __global__ void cast_from_f16_f32(const f16* x, float* y, long long n) { cast(x, y, n); }
extern "C" __global__ void cast_from_f16_bf16(const f16* x, bf16* y, long long n) { cast(x, y, n); }
