// A product onto a narrow rank, in bf16 by tensor cores: x (rows, wide) times P, a parameter of f32, A (r, wide), `BY_ROWS`, or
// B (wide, r), rounded to bf16.
//
// Warp w of a block takes the slices w, w + 8, … of 32 along x's rows; the warps' sums are added in shared memory, always in the same
// order. A lane loads 16 bytes of a row: eight elements along the sum, which as the operands of two mma stand in another order than in
// memory, for x and for P alike. The next slice is loaded before this one is multiplied, of P where registers allow.
#pragma once
#include "common.cuh"

constexpr int WARPS = 8;
constexpr int SLICE = 32; // of a row of x, that a warp takes at a time

__device__ __forceinline__ uint32_t pair(uint16_t low, uint16_t high) { return uint32_t(low) | uint32_t(high) << 16; }

// Eight elements of a row from `at` on; zeros behind its end.
__device__ __forceinline__ uint4 eight(const bf16* row, int at, int inner) {
    if (inner % 8 == 0) return at < inner ? ld16(row + at) : make_uint4(0, 0, 0, 0);
    uint16_t x[8];
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = at + i < inner ? ld(row + at + i).bits : 0;
    return make_uint4(pair(x[0], x[1]), pair(x[2], x[3]), pair(x[4], x[5]), pair(x[6], x[7]));
}

// g of the eight columns from `at` on.
__device__ __forceinline__ void gains(const float* m, const float* n, int at, float (&gain)[8]) {
    float norm[8];
    load_reused(n + at, norm);
    load_reused(m + at, gain);
#pragma unroll
    for (int i = 0; i < 8; i++) gain[i] = norm[i] == 0.0f ? 1.0f : gain[i] / norm[i];
}

// P for column n of the product: the elements `at` to `at` + 7 along the sum.
template <bool BY_ROWS>
__device__ __forceinline__ void eight_of(const float* p, int n, int at, int inner, int rank, float (&x)[8]) {
    if (BY_ROWS && inner % 8 == 0 && n < rank && at < inner) {
        load_reused(p + size_t(n) * inner + at, x);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const size_t place = BY_ROWS ? size_t(n) * inner + at + i : size_t(at + i) * rank + n;
        x[i] = n < rank && at + i < inner ? ld_reused(p + place) : 0.0f;
    }
}

// The sums of all WARPS_ warps, in the first one. Takes WARPS_ · 64 · TILES · COLUMNS · 4 bytes of dynamic shared memory.
template <int WARPS_, int TILES, int COLUMNS>
__device__ __forceinline__ void add_warps(float (&sum)[TILES][COLUMNS][4]) {
    // Half of the warps hand theirs to the other half, until one has all; a lane's numbers lie 32 apart.
    constexpr int OWN = TILES * COLUMNS * 4;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float* shared = reinterpret_cast<float*>(dynamic_smem());
#pragma unroll
    for (int half = WARPS_ / 2; half > 0; half /= 2) {
        float* place = shared + size_t(warp % half) * 32 * OWN + lane;
        if (warp >= half && warp < 2 * half) {
#pragma unroll
            for (int e = 0; e < OWN; e++) place[32 * e] = sum[e / 4 / COLUMNS][e / 4 % COLUMNS][e % 4];
        }
        __syncthreads();
        if (warp < half) {
#pragma unroll
            for (int e = 0; e < OWN; e++) sum[e / 4 / COLUMNS][e / 4 % COLUMNS][e % 4] += place[32 * e];
        }
        __syncthreads();
    }
}

// Multiplies two eights of rows, `upper` and `lower`, by the columns of b. An eight stands along the sum.
template <int COLUMNS>
__device__ __forceinline__ void multiply_eights(float (&sum)[COLUMNS][4], uint4 upper, uint4 lower, const uint4 (&b)[COLUMNS]) {
    const uint32_t left[4] = {upper.x, lower.x, upper.y, lower.y}, right[4] = {upper.z, lower.z, upper.w, lower.w};
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
        const uint32_t early[2] = {b[j].x, b[j].y}, late[2] = {b[j].z, b[j].w};
        mma_m16n8k16_bf16(sum[j], left, early, sum[j]);
        mma_m16n8k16_bf16(sum[j], right, late, sum[j]);
    }
}

// Columns `column` to `column` + N − 1 of the product, for 16 · TILES rows from `first` on. The first warp has the sums, as mma has
// them: [i][j][e] is row 16i + 8·(e/2) + lane/4, column 8j + 2·(lane%4) + e%2. Takes 256 · TILES · N bytes of dynamic shared memory.
template <int TILES, int N, bool BY_ROWS>
__device__ __forceinline__ void onto_rank(const bf16* x, const float* p, int first, int column, int rows, int inner, int rank,
    float (&sum)[TILES][N / 8][4]) {
    constexpr int LOADS = 2 * TILES, COLUMNS = N / 8;
    constexpr bool AHEAD = N == 16;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const bf16* row[LOADS]; // those of this lane; in place of one past the end the last
#pragma unroll
    for (int i = 0; i < LOADS; i++) row[i] = x + size_t(min(first + g + 8 * i, rows - 1)) * inner;
    uint4 a[LOADS], next[LOADS];
    float b[COLUMNS][8], next_b[COLUMNS][8];
    const auto fetch = [&](int at) {
#pragma unroll
        for (int i = 0; i < LOADS; i++) next[i] = eight(row[i], at, inner);
#pragma unroll
        for (int j = 0; AHEAD && j < COLUMNS; j++) eight_of<BY_ROWS>(p, column + 8 * j + g, at, inner, rank, next_b[j]);
    };
#pragma unroll
    for (int i = 0; i < TILES; i++) {
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) sum[i][j][e] = 0.0f;
        }
    }
    fetch(warp * SLICE + 8 * t);
    for (int k = warp * SLICE; k < inner; k += WARPS * SLICE) {
        const int at = k + 8 * t;
#pragma unroll
        for (int i = 0; i < LOADS; i++) a[i] = next[i];
#pragma unroll
        for (int j = 0; AHEAD && j < COLUMNS; j++) {
#pragma unroll
            for (int i = 0; i < 8; i++) b[j][i] = next_b[j][i];
        }
        fetch(at + WARPS * SLICE);
        uint4 p8[COLUMNS];
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            if (!AHEAD) eight_of<BY_ROWS>(p, column + 8 * j + g, at, inner, rank, b[j]);
            p8[j] = pack<bf16>(b[j]);
        }
#pragma unroll
        for (int i = 0; i < TILES; i++) multiply_eights(sum[i], a[2 * i], a[2 * i + 1], p8);
        flops(TILES * N * SLICE);
    }
    add_warps<WARPS>(sum);
}
