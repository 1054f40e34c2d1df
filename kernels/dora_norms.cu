// Norms of the rows o of W + sBA without forming it, and what else DoRA does once for a weight instead of once for a batch.
//
//   dora_row_norms_squared  Σ_i W_oi², once when the adapter goes on.                  T: 1 element of traffic, 1 FMA
//   dora_norms              n_o² = ‖W_o‖² + 2s·Σ_k B_ok U_ok + s²·Σ_k B_ok (B_o·G)_k, clamped at 0; once per optimizer step.
//   dora_merge              w_o ← w_o · m_o/‖w_o‖ (unchanged where the norm is 0), w = W + sBA already formed.
//
// W (out, in) of T; A (r, in), B (out, r), U = W·Aᵀ (out, r) and G = A·Aᵀ (r, r) of f32, from low_rank.cu; n (out).
// Every output is overwritten. Sums over the rank are f64: the terms may cancel. Where the sum is below 1 % of the sizes of its
// terms, f32 rounding of U and G would show, and the block computes those rows from W's row and B·A's, in f64, a strip of
// elements a thread, never a dense matrix. (The same rule as in crates/dora-tensor/src/ops/dora/norms.rs.)
//
// dora_norms: a block takes 64 rows, a warp 8 of them, a lane one k of 32; tiles of B and G pass through shared memory, so any
// rank fits. Reads B and U once up to r = 32, B r/32 times beyond; G (r² · 4 B) once a block, from cache: 8 B and r + 2 FMAs for
// each of B's elements. Small beside any product; bound by latency. A cancelled row costs in · r FMAs in f64.
#include "common.cuh"

constexpr int WARPS = 8;
constexpr int TILE = 64;      // rows of a block
constexpr int OWN = TILE / WARPS;

// A warp a row.
template <int W, class T>
__device__ void row_norms_squared(float* norms, const T* w, int out, int inner) {
    const int row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= out) return;
    float sum = 0.0f;
    for (int i = threadIdx.x % 32 * W; i < inner; i += 32 * W) {
        float x[W], squares = 0.0f;
        load(w + size_t(row) * inner + i, x);
#pragma unroll
        for (int j = 0; j < W; j++) squares += x[j] * x[j];
        sum += squares;
        flops(2 * W);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) st(norms + row, sum);
}

// ‖w_o + s·b_o·A‖ by the whole block.
template <class T>
__device__ float exact_norm(const T* w, const float* a, const float* b, float s, int o, int inner, int rank) {
    double square = 0.0;
    for (int i = threadIdx.x; i < inner; i += 32 * WARPS) {
        double x = to_f32(ld(w + size_t(o) * inner + i));
        for (int k = 0; k < rank; k++) {
            x += double(s) * double(ld_reused(b + size_t(o) * rank + k)) * double(ld_reused(a + size_t(k) * inner + i));
        }
        square += x * x;
        flops(2 * rank + 2);
    }
    return float(sqrt(block_sum(square)));
}

template <class T>
__device__ void norms(float* n, const float* base, const float* cross, const float* gram, const T* w, const float* a, const float* b,
    float s, int out, int inner, int rank) {
    __shared__ float bs[TILE][33], us[32][TILE + 1], gs[32][33];
    __shared__ int cancelled[TILE];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = blockIdx.x * TILE;
    double twice[OWN] = {}, square[OWN] = {};
    for (int k = 0; k < rank; k += 32) {
        float spread[OWN] = {}, own[OWN] = {}; // (B·G)_k and B_k of the warp's rows, k this lane's
        for (int j = 0; j < rank; j += 32) {
            for (int i = warp; i < TILE; i += WARPS) {
                const bool inside = first + i < out && j + lane < rank;
                bs[i][lane] = inside ? ld(b + size_t(first + i) * rank + j + lane) : 0.0f;
            }
            for (int i = warp; i < 32; i += WARPS) {
                gs[i][lane] = j + i < rank && k + lane < rank ? ld_reused(gram + size_t(j + i) * rank + k + lane) : 0.0f;
            }
            for (int i = warp; j == 0 && i < TILE; i += WARPS) {
                const bool inside = first + i < out && k + lane < rank;
                us[lane][i] = inside ? ld(cross + size_t(first + i) * rank + k + lane) : 0.0f;
            }
            __syncthreads();
            for (int i = 0; i < 32; i++) {
#pragma unroll
                for (int row = 0; row < OWN; row++) spread[row] += bs[warp * OWN + row][i] * gs[i][lane];
            }
            if (j == k) {
#pragma unroll
                for (int row = 0; row < OWN; row++) own[row] = bs[warp * OWN + row][lane];
            }
            flops(2 * 32 * OWN);
            __syncthreads();
        }
#pragma unroll
        for (int row = 0; row < OWN; row++) {
            twice[row] += double(own[row]) * double(us[lane][warp * OWN + row]);
            square[row] += double(own[row]) * double(spread[row]);
        }
        flops(4 * OWN);
        __syncthreads(); // U's tile has been read
    }
#pragma unroll
    for (int row = 0; row < OWN; row++) {
        const int o = first + warp * OWN + row;
        const double u = 2.0 * double(s) * warp_sum(twice[row]), g = double(s) * double(s) * warp_sum(square[row]);
        if (lane != 0) continue;
        const double norm = o < out ? double(ld(base + o)) : 0.0, sum = norm + u + g, sizes = fabs(norm) + fabs(u) + fabs(g);
        // A NaN stays one, so that a base that is not finite shows in the loss.
        if (o < out) st(n + o, float(sqrt(sum < 0.0 ? 0.0 : sum)));
        cancelled[warp * OWN + row] = sizes > 0.0 && sum < 0.01 * sizes;
    }
    __syncthreads();
    for (int row = 0; row < TILE; row++) {
        if (!cancelled[row]) continue;
        const float norm = exact_norm(w, a, b, s, first + row, inner, rank);
        if (threadIdx.x == 0) st(n + first + row, norm);
    }
}

extern "C" __global__ void __launch_bounds__(256) dora_row_norms_squared_f32(float* norms, const float* w, int out, int inner) {
    inner % PER16<float> == 0 ? row_norms_squared<PER16<float>>(norms, w, out, inner) : row_norms_squared<1>(norms, w, out, inner);
}
extern "C" __global__ void __launch_bounds__(256) dora_row_norms_squared_bf16(float* norms, const bf16* w, int out, int inner) {
    inner % PER16<bf16> == 0 ? row_norms_squared<PER16<bf16>>(norms, w, out, inner) : row_norms_squared<1>(norms, w, out, inner);
}
extern "C" __global__ void __launch_bounds__(256, 2) dora_norms_f32(float* n, const float* base, const float* cross, const float* gram,
    const float* w, const float* a, const float* b, float s, int out, int inner, int rank) {
    norms(n, base, cross, gram, w, a, b, s, out, inner, rank);
}
extern "C" __global__ void __launch_bounds__(256, 2) dora_norms_bf16(float* n, const float* base, const float* cross, const float* gram,
    const bf16* w, const float* a, const float* b, float s, int out, int inner, int rank) {
    norms(n, base, cross, gram, w, a, b, s, out, inner, rank);
}
// A block a row.
extern "C" __global__ void __launch_bounds__(256) dora_merge_f32(float* w, const float* m, int inner) {
    float* row = w + size_t(blockIdx.x) * inner;
    float square = 0.0f;
    for (int i = threadIdx.x; i < inner; i += blockDim.x) {
        const float x = ld(row + i);
        square += x * x;
    }
    const float norm = sqrtf(block_sum(square));
    if (norm == 0.0f) return;
    const float gain = ld_reused(m + blockIdx.x) / norm;
    for (int i = threadIdx.x; i < inner; i += blockDim.x) st(row + i, ld_reused(row + i) * gain);
    flops(3 * ((inner + blockDim.x - 1 - threadIdx.x) / blockDim.x));
}
