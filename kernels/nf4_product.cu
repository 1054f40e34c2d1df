// y (rows, out) = x (rows, in) · Wᵀ straight from W's 4 bits, for the 1 to 16 rows of generation. y is overwritten; sums are f32;
// elements of W are rounded to T as nf4_dequantize rounds them, so the product is that of the dense W. A block takes 16 outputs.
//
// bf16, `in` a multiple of 64: warps take every eighth tile of 128 elements of `in`, and their sums are added in order. A tile is
// 8 mma.m16n8k16 with W as A and xᵀ as B (two B where rows > 8). A sum does not depend on the order of its terms, so lane t of
// four takes elements 32t to 32t + 31 of the tile as its k of all 8 products: 16 bytes of codes a row, under one scale, and 64
// bytes of x. Traffic: W's 0.5 B and its scale (1 B a block, nested) from memory, an element; x from cache, once for every 16
// outputs: rows/8 B an element of W. 2 · rows FLOPs (computed: 16 or 32) an element; beside bandwidth the lookup, a
// shared-memory read an element, is the limit.
//
// Otherwise, and in f32: a warp an output, a lane 8 elements at a time, FMA; x from cache once an output. For exactness.
#include "nf4.cuh"

constexpr int WARPS = 8;
constexpr int MOST = 16; // rows of x, and outputs of a block
constexpr int TILE = 128;

// This lane's 32 elements of one row of W.
struct Run {
    unsigned bits[4] = {};
    float scale = 0.0f;

    // From element `start` on, or zeros. A lane and its neighbour lie in one block, and the even one reads the scale.
    __device__ __forceinline__ Run(const uint8_t* codes, const Scales& scales, int log_block, long long start, bool inside) {
        if (inside) {
            const uint4 all = ld16(codes + start / 2);
            bits[0] = all.x, bits[1] = all.y, bits[2] = all.z, bits[3] = all.w;
            if (threadIdx.x % 2 == 0) scale = scales.of(start >> log_block);
        }
        const float other = __shfl_xor_sync(0xFFFFFFFF, scale, 1);
        if (threadIdx.x % 2 == 1) scale = other;
    }

    // Elements 4j and 4j + 1, then 4j + 2 and 4j + 3, as pairs.
    __device__ __forceinline__ void four(int j, const Lookup& lookup, uint32_t& first, uint32_t& second) const {
        float w[4];
#pragma unroll
        for (int i = 0; i < 4; i++) w[i] = lookup.value(bits[j / 2], j % 2 * 4 + i) * scale;
        first = pack_bf16x2(w[0], w[1]);
        second = pack_bf16x2(w[2], w[3]);
        flops(4);
    }
};

// For 8·NB rows of x.
template <int NB>
__device__ __forceinline__ void by_tiles(bf16* y, const bf16* x, const uint8_t* codes, const Scales& scales, int log_block, int rows, int out,
    int inner, const Lookup& lookup) {
    __shared__ float parts[WARPS][8 * NB][MOST + 1];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4, first = blockIdx.x * MOST;
    float sum[NB][4] = {};
    for (int tile = warp * TILE; tile < inner; tile += WARPS * TILE) {
        const int k = tile + 32 * t, o = first + g;
        const Run top(codes, scales, log_block, (long long)o * inner + k, o < out && k < inner);
        const Run bottom(codes, scales, log_block, (long long)(o + 8) * inner + k, o + 8 < out && k < inner);
        uint4 xs[NB][4] = {};
#pragma unroll
        for (int i = 0; i < NB; i++) {
            const int row = 8 * i + g;
            if (row >= rows || k >= inner) continue;
#pragma unroll
            for (int j = 0; j < 4; j++) xs[i][j] = ld_reused(reinterpret_cast<const uint4*>(x + size_t(row) * inner + k) + j);
        }
#pragma unroll
        for (int j = 0; j < 8; j++) {
            uint32_t a[4];
            top.four(j, lookup, a[0], a[2]);
            bottom.four(j, lookup, a[1], a[3]);
#pragma unroll
            for (int i = 0; i < NB; i++) {
                const uint4 four = xs[i][j / 2];
                const uint32_t b[2] = {j % 2 == 0 ? four.x : four.z, j % 2 == 0 ? four.y : four.w};
                mma_m16n8k16_bf16(sum[i], a, b, sum[i]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < NB; i++) {
#pragma unroll
        for (int e = 0; e < 4; e++) parts[warp][8 * i + 2 * t + e % 2][g + e / 2 * 8] = sum[i][e];
    }
    __syncthreads();
    const int o = threadIdx.x % MOST, row = threadIdx.x / MOST;
    if (row >= rows || first + o >= out) return;
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < WARPS; i++) total += parts[i][row][o];
    st(y + size_t(row) * out + first + o, from_f32<bf16>(total));
}

template <class T>
__device__ __forceinline__ void by_elements(T* y, const T* x, const uint8_t* codes, const Scales& scales, int log_block, int rows, int out,
    int inner, const Lookup& lookup) {
    const int lane = threadIdx.x % 32, end = min(out, int(blockIdx.x + 1) * MOST);
    for (int o = blockIdx.x * MOST + threadIdx.x / 32; o < end; o += WARPS) {
        float sum[MOST] = {};
        for (int k = lane * 8; k < inner; k += 256) {
            const long long start = (long long)o * inner + k;
            const int count = min(inner - k, 8);
            float w[8] = {};
            if (start % 8 == 0 && count == 8) {
                const unsigned bits = ld(reinterpret_cast<const unsigned*>(codes + start / 2));
                const float scale = scales.of(start >> log_block);
#pragma unroll
                for (int i = 0; i < 8; i++) w[i] = lookup.value(bits, i) * scale;
            } else {
#pragma unroll 1
                for (int i = 0; i < count; i++) w[i] = element(codes, scales, log_block, start + i, lookup);
            }
#pragma unroll
            for (int row = 0; row < MOST; row++) {
                if (row >= rows) break;
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    if (i < count) sum[row] += to_f32(from_f32<T>(w[i])) * to_f32(ld_reused(x + size_t(row) * inner + k + i));
                }
                flops(16);
            }
        }
#pragma unroll
        for (int row = 0; row < MOST; row++) {
            const float total = warp_sum(sum[row]);
            if (row < rows && lane == 0) st(y + size_t(row) * out + o, from_f32<T>(total));
        }
    }
}

template <int NB>
__device__ __forceinline__ void product_bf16(bf16* y, const bf16* x, const uint8_t* codes, const Scales& scales, int log_block, int rows,
    int out, int inner) {
    __shared__ float copies[16][32];
    Lookup lookup = {copies};
    lookup.fill();
    inner % 64 == 0 ? by_tiles<NB>(y, x, codes, scales, log_block, rows, out, inner, lookup)
                    : by_elements(y, x, codes, scales, log_block, rows, out, inner, lookup);
}

// Up to 8 rows, and up to 16.
extern "C" __global__ void __launch_bounds__(256) nf4_product_8_bf16(bf16* y, const bf16* x, const uint8_t* codes, const uint8_t* scale_codes,
    const float* absmax, const float* map, const float* offset, int log_block, int rows, int out, int inner) {
    product_bf16<1>(y, x, codes, {scale_codes, absmax, map, offset}, log_block, rows, out, inner);
}
extern "C" __global__ void __launch_bounds__(256) nf4_product_16_bf16(bf16* y, const bf16* x, const uint8_t* codes, const uint8_t* scale_codes,
    const float* absmax, const float* map, const float* offset, int log_block, int rows, int out, int inner) {
    product_bf16<2>(y, x, codes, {scale_codes, absmax, map, offset}, log_block, rows, out, inner);
}
extern "C" __global__ void __launch_bounds__(256) nf4_product_f32(float* y, const float* x, const uint8_t* codes, const uint8_t* scale_codes,
    const float* absmax, const float* map, const float* offset, int log_block, int rows, int out, int inner) {
    __shared__ float copies[16][32];
    Lookup lookup = {copies};
    lookup.fill();
    by_elements(y, x, codes, {scale_codes, absmax, map, offset}, log_block, rows, out, inner, lookup);
}
