// The products of a low-rank update whose rank side is narrow: onto it, and back. P is a parameter as it is kept, f32, rounded to T
// where it is multiplied: A (r, wide), `by_rows`, or B (wide, r). Sums are f32 and rounded once. Every output is overwritten.
//
//   low_rank_project   h (rows, r) = s·x·P, x (rows, wide): h = x·Aᵀ, dh = s·dz·B.
//   low_rank_compose   y (rows, wide) = g ⊙ (z + s·h·P) + b, which may be z; z may be missing and is then 0; g = m/n, 1 where n is 0
//                      or where there are no m and n; b may be missing. LoRA's and DoRA's output, and dx + dh·A.
//
// Least traffic: x once; z and y once. P comes from a cache, h in compose too. In bf16 2 B an element of x, 4 B of y, beside 2·r FLOPs
// on tensor cores, so memory decides up to r of about 200.
//
// project, bf16: a block takes 32 rows and 16 or 32 columns of h (low_rank.cuh). compose, bf16: a warp takes 64 columns and 16 rows at a
// time, of as many as the grid leaves it. P is the left operand, and four mma's columns are interleaved: eight lanes hold the 128
// bytes of a row that lie side by side. z and, up to r = 16, h of the next rows are loaded before these are multiplied. f32 is for tests.
#include "low_rank.cuh"

// ---- project ----

constexpr int PROJECT_ROWS = 32; // of a block

// N columns of h from blockIdx.y · N on.
template <int N, bool BY_ROWS>
__device__ void project_columns(bf16* h, const bf16* x, const float* p, float s, int rows, int inner, int rank) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, first = blockIdx.x * PROJECT_ROWS, column = blockIdx.y * N;
    float sum[PROJECT_ROWS / 16][N / 8][4];
    onto_rank<PROJECT_ROWS / 16, N, BY_ROWS>(x, p, first, column, rows, inner, rank, sum);
    if (threadIdx.x >= 32) return;
#pragma unroll
    for (int i = 0; i < PROJECT_ROWS / 16; i++) {
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int r = first + 16 * i + 8 * (e / 2) + g, n = column + 8 * j + 2 * t + e % 2;
                if (r < rows && n < rank) st(h + size_t(r) * rank + n, from_f32<bf16>(s * sum[i][j][e]));
            }
        }
    }
}

__device__ void project(bf16* h, const bf16* x, const float* p, float s, int by_rows, int rows, int inner, int rank) {
    if (rank <= 16) {
        by_rows ? project_columns<16, true>(h, x, p, s, rows, inner, rank) : project_columns<16, false>(h, x, p, s, rows, inner, rank);
    } else {
        by_rows ? project_columns<32, true>(h, x, p, s, rows, inner, rank) : project_columns<32, false>(h, x, p, s, rows, inner, rank);
    }
}

// A block a row of h, a warp every eighth column.
__device__ void project(float* h, const float* x, const float* p, float s, int by_rows, int rows, int inner, int rank) {
    const int row = blockIdx.x, lane = threadIdx.x % 32;
    for (int n = threadIdx.x / 32; n < rank; n += WARPS) {
        float sum = 0.0f;
        for (int i = lane; i < inner; i += 32) {
            const float* own = x + size_t(row) * inner + i;
            sum += (n == 0 ? ld(own) : ld_reused(own)) * ld_reused(p + (by_rows ? size_t(n) * inner + i : size_t(i) * rank + n));
            flops(2);
        }
        sum = warp_sum(sum);
        if (lane == 0) st(h + size_t(row) * rank + n, s * sum);
    }
}

// ---- compose ----

constexpr int STRIP = 64; // columns of a warp
constexpr int GROUPS = 2; // of eight rows, whose loads are under way together

// The rows of a block, from `row` on to before `end`: whole groups.
__device__ __forceinline__ void block_rows(int rows, int& row, int& end) {
    constexpr int STEP = 8 * GROUPS;
    const int steps = (rows + STEP - 1) / STEP, own = (steps + int(gridDim.y) - 1) / int(gridDim.y) * STEP;
    row = int(blockIdx.y) * own;
    end = min(rows, row + own);
}

// P for a column of y: the elements k to k + 3 along the sum.
__device__ __forceinline__ uint2 four_of(const float* p, int by_rows, int column, int k, int width, int rank) {
    float x[4] = {};
    if (!by_rows && rank % 4 == 0) {
        if (column < width && k < rank) load_reused(p + size_t(column) * rank + k, x);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const size_t at = by_rows ? size_t(k + i) * width + column : size_t(column) * rank + k + i;
            if (column < width && k + i < rank) x[i] = ld_reused(p + at);
        }
    }
    return make_uint2(pack_bf16x2(x[0], x[1]), pack_bf16x2(x[2], x[3]));
}

__device__ __forceinline__ uint2 four(const bf16* row, int k, int rank) {
    if (rank % 4 == 0) return k < rank ? ld_reused(reinterpret_cast<const uint2*>(row + k)) : make_uint2(0, 0);
    uint16_t x[4];
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = k + i < rank ? ld_reused(row + k + i).bits : 0;
    return make_uint2(pair(x[0], x[1]), pair(x[2], x[3]));
}

__device__ __forceinline__ float gain_of(const float* m, const float* n, int column) {
    const float norm = m ? ld_reused(n + column) : 0.0f;
    return norm == 0.0f ? 1.0f : ld_reused(m + column) / norm;
}

// A thread takes columns of a block's 512: for f32, and rows that are not aligned to sixteen bytes.
template <class T>
__device__ void compose_columns(const T* z, const T* h, const float* p, float s, const float* m, const float* n, const float* bias, T* y,
    int by_rows, int rows, int width, int rank) {
    int begin, end;
    block_rows(rows, begin, end);
    const int last = min(width, int(blockIdx.x + 1) * WARPS * STRIP);
    for (int column = blockIdx.x * WARPS * STRIP + threadIdx.x; column < last; column += blockDim.x) {
        const float gain = gain_of(m, n, column), shift = bias ? ld_reused(bias + column) : 0.0f;
        for (int row = begin; row < end; row++) {
            float sum = 0.0f;
            for (int k = 0; k < rank; k++) {
                const size_t at = by_rows ? size_t(k) * width + column : size_t(column) * rank + k;
                sum += to_f32(ld_reused(h + size_t(row) * rank + k)) * rounded<T>(ld_reused(p + at));
            }
            const size_t at = size_t(row) * width + column;
            st(y + at, from_f32<T>(gain * ((z ? to_f32(ld(z + at)) : 0.0f) + s * sum) + shift));
            flops(2 * rank + 4);
        }
    }
}

// With STEPS, the rank is at most 16 · STEPS and P stays in registers; with 0 it is read again for each group of rows.
template <int STEPS>
__device__ void compose_rows(const bf16* z, const bf16* h, const float* p, float s, const float* m, const float* n, const float* bias,
    bf16* y, int by_rows, int rows, int width, int rank) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int first = (blockIdx.x * WARPS + threadIdx.x / 32) * STRIP, own = first + 8 * g;
    int begin, end;
    block_rows(rows, begin, end);
    if (first >= width || begin >= end) return;
    const bool inside = own < width;
    // A lane's parts of z and of h for some groups of rows, on their way while those before are multiplied.
    constexpr int AHEAD = STEPS == 1 ? 1 : 0;
    uint4 next[GROUPS][2];
    uint2 next_h[GROUPS];
    const auto fetch = [&](int row) {
#pragma unroll
        for (int i = 0; i < GROUPS; i++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int r = row + 8 * i + 2 * t + e;
                next[i][e] = z && r < end && inside ? ld16(z + size_t(r) * width + own) : make_uint4(0, 0, 0, 0);
            }
            if (AHEAD) next_h[i] = four(h + size_t(min(row + 8 * i + g, rows - 1)) * rank, 4 * t, rank);
        }
    };
    fetch(begin);
    float gain[8], shift[8] = {};
#pragma unroll
    for (int i = 0; i < 8; i++) gain[i] = 1.0f;
    if (m && inside) gains(m, n, own, gain);
    if (bias && inside) load_reused(bias + own, shift);
    // Rows g and g + 8 of product j are columns 8g + 2j and 8g + 2j + 1 of the warp's.
    uint2 held[STEPS ? STEPS : 1][4][2];
    const auto hold = [&](int step, int k) {
#pragma unroll
        for (int j = 0; j < 8; j++) held[step][j / 2][j % 2] = four_of(p, by_rows, own + j, k + 4 * t, width, rank);
    };
#pragma unroll
    for (int step = 0; step < STEPS; step++) hold(step, 16 * step);
    for (int row = begin; row < end; row += 8 * GROUPS) {
        uint4 x[GROUPS][2];
        uint2 now[GROUPS];
#pragma unroll
        for (int i = 0; i < GROUPS; i++) {
            x[i][0] = next[i][0];
            x[i][1] = next[i][1];
            if (AHEAD) now[i] = next_h[i];
        }
        fetch(row + 8 * GROUPS);
#pragma unroll
        for (int i = 0; i < GROUPS; i++) {
            const bf16* own_h = h + size_t(min(row + 8 * i + g, rows - 1)) * rank;
            float sum[4][4] = {};
            const auto multiply = [&](int k, const uint2(&left)[4][2]) {
                const uint2 right = AHEAD ? now[i] : four(own_h, k + 4 * t, rank);
                const uint32_t of[2] = {right.x, right.y};
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const uint32_t columns[4] = {left[j][0].x, left[j][1].x, left[j][0].y, left[j][1].y};
                    mma_m16n8k16_bf16(sum[j], columns, of, sum[j]);
                }
                flops(2 * 16 * 16);
            };
            if constexpr (STEPS > 0) {
#pragma unroll
                for (int step = 0; step < STEPS; step++) multiply(16 * step, held[step]);
            } else {
                for (int k = 0; k < rank; k += 16) {
                    hold(0, k);
                    multiply(k, held[0]);
                }
            }
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int r = row + 8 * i + 2 * t + e;
                if (r >= end || !inside) continue;
                float value[8];
                unpack<bf16>(x[i][e], value);
#pragma unroll
                for (int c = 0; c < 8; c++) value[c] = gain[c] * (value[c] + s * sum[c / 2][2 * (c % 2) + e]) + shift[c];
                flops(4 * 8);
                store(y + size_t(r) * width + own, value);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) low_rank_project_f32(float* h, const float* x, const float* p, float s, int by_rows,
    int rows, int inner, int rank) {
    project(h, x, p, s, by_rows, rows, inner, rank);
}
extern "C" __global__ void __launch_bounds__(256, 2) low_rank_project_bf16(bf16* h, const bf16* x, const float* p, float s, int by_rows,
    int rows, int inner, int rank) {
    project(h, x, p, s, by_rows, rows, inner, rank);
}
extern "C" __global__ void __launch_bounds__(256) low_rank_compose_f32(const float* z, const float* h, const float* p, float s,
    const float* m, const float* n, const float* bias, float* y, int by_rows, int rows, int width, int rank) {
    compose_columns(z, h, p, s, m, n, bias, y, by_rows, rows, width, rank);
}
extern "C" __global__ void __launch_bounds__(256, 2) low_rank_compose_bf16(const bf16* z, const bf16* h, const float* p, float s,
    const float* m, const float* n, const float* bias, bf16* y, int by_rows, int rows, int width, int rank) {
    if (width % 8 != 0) compose_columns(z, h, p, s, m, n, bias, y, by_rows, rows, width, rank);
    else if (rank <= 16) compose_rows<1>(z, h, p, s, m, n, bias, y, by_rows, rows, width, rank);
    else if (rank <= 32) compose_rows<2>(z, h, p, s, m, n, bias, y, by_rows, rows, width, rank);
    else compose_rows<0>(z, h, p, s, m, n, bias, y, by_rows, rows, width, rank);
}
