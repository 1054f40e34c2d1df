// Tiles of attention.cu, attention_backward.cu and attention_f32.cu, and fragments of the first two: bf16 matrices of D columns in shared memory, and what one warp takes
// of them for mma.m16n8k16. Rows are 16 bytes longer than their elements, so the eight rows of an ldmatrix lie in different banks.
#pragma once

#include "common.cuh"

constexpr int WARPS = 4;
constexpr int TILE = 16 * WARPS; // rows of a block: 16 a warp
constexpr float LOG2E = 1.4426950408889634f;

template <int D>
constexpr int STRIDE = D + 8;

// A tile of queries, all of one document. Its query i sees keys `key` to `key + seen + i`, the last one excluded.
struct Tile {
    int query; // first row of q
    int end;   // row of q behind the document
    int key;   // row of k of the document's first key
    int seen;
};

__device__ __forceinline__ Tile tile_at(const unsigned* tiles, int i) {
    const uint4 t = ld_reused(reinterpret_cast<const uint4*>(tiles) + i);
    return {int(t.x), int(t.y), int(t.z), int(t.w)};
}

__device__ __forceinline__ float exp2_fast(float x) {
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

// Starts copying ROWS rows, `stride` elements apart, to shared memory; rows from `valid` on become zeros.
template <int D, int ROWS>
__device__ __forceinline__ void copy_rows(bf16* to, const bf16* from, size_t stride, int valid) {
    constexpr int PER_ROW = D / 8, APART = 32 * WARPS / PER_ROW; // threads a row, rows between those of a thread
    const int first = threadIdx.x / PER_ROW, column = threadIdx.x % PER_ROW * 8;
    const bf16* at = from + first * stride + column;
    to += first * STRIDE<D> + column;
#pragma unroll
    for (int r = 0; r < ROWS; r += APART) {
        if (APART > ROWS && first >= ROWS) break;
        cp_async16(to + r * STRIDE<D>, first + r < valid ? at + r * stride : from, first + r < valid ? 16 : 0);
    }
}

// Rows 0 to 15 and columns 0 to 15 at p as A.
template <int D>
__device__ __forceinline__ void fragment_a(uint32_t (&a)[4], const bf16* p) {
    const int lane = threadIdx.x % 32;
    ldmatrix_x4(a, p + lane % 16 * STRIDE<D> + lane / 16 * 8);
}
// The transpose of rows 0 to 15 and columns 0 to 15 at p as two B side by side: rows are n, columns k.
template <int D>
__device__ __forceinline__ void fragment_b_rows(uint32_t (&b)[4], const bf16* p) {
    const int lane = threadIdx.x % 32;
    ldmatrix_x4(b, p + (lane / 16 * 8 + lane % 8) * STRIDE<D> + lane / 8 % 2 * 8);
}
// Rows 0 to 15 and columns 0 to 15 at p as two B side by side: rows are k, columns n.
template <int D>
__device__ __forceinline__ void fragment_b_columns(uint32_t (&b)[4], const bf16* p) {
    const int lane = threadIdx.x % 32;
    ldmatrix_x4_trans(b, p + lane % 16 * STRIDE<D> + lane / 16 * 8);
}

// Both halves of a 16 x 16 B.
__device__ __forceinline__ void mma_twice(float (&left)[4], float (&right)[4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
    const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
    mma_m16n8k16_bf16(left, a, first, left);
    mma_m16n8k16_bf16(right, a, second, right);
}

// Sums of 16 x 16 results, rounded, as A of the next product.
__device__ __forceinline__ void as_a(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = pack_bf16x2(left[0], left[1]);
    a[1] = pack_bf16x2(left[2], left[3]);
    a[2] = pack_bf16x2(right[0], right[1]);
    a[3] = pack_bf16x2(right[2], right[3]);
}

// s (16, 8·N) = A·Bᵀ over D columns: 16 rows of A at a, 8·N rows of B at b.
template <int D, int N>
__device__ __forceinline__ void product_of_rows(float (&s)[N][4], const bf16* a, const bf16* b) {
#pragma unroll
    for (int j = 0; j < N; j++) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        uint32_t left[4], right[4];
        fragment_a<D>(left, a + k);
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            fragment_b_rows<D>(right, b + j * 8 * STRIDE<D> + k);
            mma_twice(s[j], s[j + 1], left, right);
        }
    }
}

// sum (16, D) += P·B: P (16, 8·N) from registers, 8·N rows of B at b.
template <int D, int N>
__device__ __forceinline__ void add_product(float (&sum)[D / 8][4], const float (&p)[N][4], const bf16* b) {
#pragma unroll
    for (int k = 0; k < N; k += 2) {
        uint32_t left[4], right[4];
        as_a(left, p[k], p[k + 1]);
#pragma unroll
        for (int j = 0; j < D / 8; j += 2) {
            fragment_b_columns<D>(right, b + k * 8 * STRIDE<D> + j * 8);
            mma_twice(sum[j], sum[j + 1], left, right);
        }
    }
}

// Writes this warp's 16 x D sums, times `by` of rows g and g + 8, through 16 rows of shared memory: row r goes to at(r), unless null.
template <int D, class At>
__device__ __forceinline__ void store_rows(bf16* staged, const float (&sum)[D / 8][4], const float (&by)[2], At at) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t two = pack_bf16x2(sum[j][2 * half] * by[half], sum[j][2 * half + 1] * by[half]);
            *reinterpret_cast<uint32_t*>(staged + (g + 8 * half) * STRIDE<D> + 8 * j + 2 * t) = two;
        }
    }
    __syncwarp();
    for (int i = lane; i < 16 * (D / 8); i += 32) {
        const int r = i / (D / 8), column = i % (D / 8) * 8;
        bf16* to = at(r);
        if (to) st16(to + column, *reinterpret_cast<const uint4*>(staged + r * STRIDE<D> + column));
    }
}
