// NF4 (nf4.cuh): elements to 4-bit codes and scales, and back.
//
//   nf4_quantize    codes (⌈n/2⌉) and scales (⌈n/block⌉) of n elements of T, bit for bit as bitsandbytes: a full block is multiplied
//                   by 1/absmax, a trailing part of one divided by it; ties go to the lower code. A block that is not finite
//                   gets a scale that is not. A warp takes max(256, block) elements, a lane 8 at a time; a block's lanes
//                   exchange the largest. Traffic: T and 0.5 B an element; blocks above 256 are read a second time, from
//                   cache. 33 FLOPs (15 comparisons). Runs once for a weight.
//   nf4_offset      the mean of all scales, in f64; one block. 4 B a scale.
//   nf4_nest        8-bit codes of scale − offset, and their largest, per 256; a block of threads each. 5 B a scale.
//   nf4_dequantize  n elements of T = MAP[code] · scale in f32, rounded once. A warp takes 1024 elements: 16 bytes of codes a lane
//                   go through shared memory, so that lanes store 16 neighbouring bytes each; lane i computes scale i of at most
//                   16, and shuffles hand them out. Traffic to bf16: 2 + 0.5 B, and a scale's 1 B (nested; its absmax is shared
//                   by 256) a block: 2.52 B an element at 64. 1 FLOP. Bound by bandwidth.
//
// Every output is overwritten. n is any number; pointers are aligned to 16 bytes.
#include "nf4.cuh"

constexpr int WARPS = 8;
constexpr int TILE = 1024; // elements a warp dequantises at a time
constexpr int TILES = 4;   // of a warp
constexpr float SMALLEST = 1e-38f; // a scale below this is taken for it

// ---- quantise ----

// Number of midpoints between neighbouring values of the map that lie below x.
__device__ __forceinline__ unsigned code_of(float x) {
    unsigned code = 0;
#pragma unroll
    for (int i = 0; i < 15; i++) code += x > (MAP[i] + MAP[i + 1]) / 2.0f;
    return code;
}

// Elements i to i + 8; beyond the end 0.0, whose code is 7.
template <class T>
__device__ __forceinline__ void eight(const T* x, long long i, long long n, bool again, float (&v)[8]) {
    if (i + 8 <= n) {
        again ? load_reused(x + i, v) : load(x + i, v);
    } else {
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = i + j < n ? to_f32(ld(x + i + j)) : 0.0f;
    }
}

template <class T>
__device__ void quantize(uint8_t* codes, float* scales, const T* x, int log_block, long long n) {
    const int lane = threadIdx.x % 32, block = 1 << log_block, rounds = max(block / 256, 1), lanes = min(block / 8, 32);
    const long long first = ((long long)blockIdx.x * WARPS + threadIdx.x / 32) * 256 * rounds + lane * 8;
    float v[8];
    // Bits of a float without its sign rise with its size, infinity and NaN last.
    unsigned largest = 0;
    for (int round = 0; round < rounds; round++) {
        eight(x, first + round * 256, n, false, v);
#pragma unroll
        for (int j = 0; j < 8; j++) largest = max(largest, __float_as_uint(v[j]) & 0x7FFFFFFF);
    }
    for (int bits = lanes / 2; bits > 0; bits /= 2) largest = max(largest, __shfl_xor_sync(0xFFFFFFFF, largest, bits));
    const long long start = first >> log_block << log_block;
    if (start >= n) return;
    const bool full = start + block <= n;
    const float absmax = __uint_as_float(largest), divisor = absmax < SMALLEST ? SMALLEST : absmax, inverse = 1.0f / divisor;
    if (lane % lanes == 0) st(scales + (start >> log_block), full ? absmax : divisor);
    for (int round = 0; round < rounds; round++) {
        const long long i = first + round * 256;
        if (rounds > 1) eight(x, i, n, true, v);
        unsigned packed = 0;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float scaled = full ? v[j] * inverse : v[j] / divisor;
            packed |= code_of(fminf(fmaxf(scaled, -1.0f), 1.0f)) << (j / 2 * 8 + (j % 2 == 0 ? 4 : 0));
        }
        flops(8 * 33);
        if (i + 8 <= n) {
            st(reinterpret_cast<unsigned*>(codes + i / 2), packed);
        } else {
            for (int j = 0; i + 2 * j < n; j++) st(codes + i / 2 + j, uint8_t(packed >> 8 * j));
        }
    }
}

extern "C" __global__ void __launch_bounds__(1024) nf4_offset_f32(float* offset, const float* scales, int blocks) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) {
        sum += double(ld(scales + i));
        flops(1);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) st(offset, float(sum / max(blocks, 1)));
}

// The code is the index of the nearest of the map's 256 rising values; of two equally near the lower.
extern "C" __global__ void __launch_bounds__(256) nf4_nest_f32(uint8_t* codes, float* absmax, const float* scales, const float* map,
    const float* offset, int blocks) {
    __shared__ float values[256];
    values[threadIdx.x] = ld_reused(map + threadIdx.x);
    const int i = blockIdx.x * 256 + threadIdx.x;
    const bool full = int(blockIdx.x + 1) * 256 <= blocks;
    const float rest = i < blocks ? ld(scales + i) - ld_reused(offset) : 0.0f;
    const float largest = block_max(fabsf(rest)), divisor = fmaxf(largest, SMALLEST), inverse = 1.0f / divisor;
    if (threadIdx.x == 0) st(absmax + blockIdx.x, largest);
    if (i >= blocks) return;
    const float x = fminf(fmaxf(full ? rest * inverse : rest / divisor, -1.0f), 1.0f);
    int below = 0; // values below x
#pragma unroll
    for (int step = 128; step > 0; step /= 2) {
        if (values[below + step - 1] < x) below += step;
    }
    below += values[below] < x;
    const bool lower = below == 256 || (below > 0 && x <= (values[below - 1] + values[below]) / 2.0f);
    st(codes + i, uint8_t(lower ? below - 1 : below));
    flops(17);
}

// ---- dequantise ----

template <class T>
__device__ void dequantize(T* out, const uint8_t* codes, Scales scales, int log_block, long long n) {
    constexpr int W = PER16<T>;
    __shared__ float copies[16][32];
    __shared__ uint4 staged[WARPS][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Lookup lookup = {copies};
    lookup.fill();
    for (int tile = 0; tile < TILES; tile++) {
        const long long start = (((long long)blockIdx.x * TILES + tile) * WARPS + warp) * TILE;
        if (start + TILE > n) {
            for (long long i = start + lane; i < n; i += 32) st(out + i, from_f32<T>(element(codes, scales, log_block, i, lookup)));
            continue;
        }
        const uint4 mine = ld16(codes + start / 2 + lane * 16);
        const float scale = lane < max(TILE >> log_block, 1) ? scales.of((start >> log_block) + lane) : 0.0f;
        __syncwarp(); // the last tile has been read
        staged[warp][lane] = mine;
        __syncwarp();
#pragma unroll
        for (int i = lane * W; i < TILE; i += 32 * W) {
            const char* at = reinterpret_cast<const char*>(staged[warp]) + i / 2;
            const unsigned bits = W == 8 ? *reinterpret_cast<const unsigned*>(at) : *reinterpret_cast<const uint16_t*>(at);
            const float by = __shfl_sync(0xFFFFFFFF, scale, i >> log_block);
            float x[W];
#pragma unroll
            for (int j = 0; j < W; j++) x[j] = lookup.value(bits, j) * by;
            store(out + start + i, x);
            flops(W);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) nf4_quantize_f32(uint8_t* codes, float* scales, const float* x, int log_block, long long n) {
    quantize(codes, scales, x, log_block, n);
}
extern "C" __global__ void __launch_bounds__(256) nf4_quantize_bf16(uint8_t* codes, float* scales, const bf16* x, int log_block, long long n) {
    quantize(codes, scales, x, log_block, n);
}
extern "C" __global__ void __launch_bounds__(256) nf4_quantize_f16(uint8_t* codes, float* scales, const f16* x, int log_block, long long n) {
    quantize(codes, scales, x, log_block, n);
}
extern "C" __global__ void __launch_bounds__(256) nf4_dequantize_f32(float* out, const uint8_t* codes, const uint8_t* scale_codes,
    const float* absmax, const float* map, const float* offset, int log_block, long long n) {
    dequantize(out, codes, {scale_codes, absmax, map, offset}, log_block, n);
}
extern "C" __global__ void __launch_bounds__(256) nf4_dequantize_bf16(bf16* out, const uint8_t* codes, const uint8_t* scale_codes,
    const float* absmax, const float* map, const float* offset, int log_block, long long n) {
    dequantize(out, codes, {scale_codes, absmax, map, offset}, log_block, n);
}
extern "C" __global__ void __launch_bounds__(256) nf4_dequantize_f16(f16* out, const uint8_t* codes, const uint8_t* scale_codes,
    const float* absmax, const float* map, const float* offset, int log_block, long long n) {
    dequantize(out, codes, {scale_codes, absmax, map, offset}, log_block, n);
}
