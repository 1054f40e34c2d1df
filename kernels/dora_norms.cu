// Norms of the rows o of W + sBA without forming it, and what else DoRA does once for a weight instead of once for a batch.
//
//   dora_row_norms_squared  Σ_i W_oi², once when the adapter goes on.                  T: 1 element of traffic, 1 FMA
//   dora_gram               G = A·Aᵀ (r, r), for many layers.                          A: 4 B, r FMAs
//   dora_norms              n_o² = ‖W_o‖² + 2s·Σ_k B_ok U_ok + s²·Σ_k B_ok (B_o·G)_k, U = W·Aᵀ, clamped at 0; once per optimizer step,
//                           for many layers.
//   dora_merge              w_o ← w_o · m_o/‖w_o‖ (unchanged where the norm is 0), w = W + sBA already formed.
//
// W (out, in) of T; A (r, in), B (out, r), G and n (out) of f32; A and B are rounded to T, as in the products of low_rank.cu. Every output is
// overwritten. Sums over the rank are f64: the terms may cancel. Where the sum is below 1 % of the sizes of its terms, f32 rounding of U
// and G would show, and the block computes those rows from W's row and B·A's, in f64, a strip of elements a thread, never a dense
// matrix. (The same rule as in crates/dora-tensor/src/ops/dora/norms.rs.)
//
// layers: a table of `count` layers, twenty words each: the addresses of W, A, B, ‖W‖² (out), n and G, aligned to 16; out, in, r; s; rows of a
// block of dora_norms; its first block in dora_norms and in dora_gram; a word for alignment.
//
// dora_gram: a block takes a row of G and 8 columns, a warp an element. dora_norms: a block takes 16 rows, or 32 where the rank is at
// most 16 and that still fills a card. Up to 32 columns of U at a time come from tensor cores (low_rank.cuh) and stay in shared memory;
// then a warp takes an eighth of the rows, a lane one k of 32, and tiles of B and G pass through shared memory, so any rank fits. Reads W
// and B once up to r = 32 (r/32 times beyond, W from a cache), and A and G (r² · 4 B) once a block, from a cache: 2 B and 2·r FLOPs for
// each of W's elements. A cancelled row costs in · r FMAs in f64.
#include "low_rank.cuh"

constexpr int MOST = 32; // rows of a block of dora_norms
// Words of a layer in the table, and which of them are its first blocks.
constexpr int WORDS = 20, FIRST_OF_NORMS = 17, FIRST_OF_GRAM = 18;

template <class T>
struct Layer {
    const T* w;
    const float *a, *b, *base;
    float *n, *gram;
    int out, inner, rank;
    float s;
    int rows, block; // of dora_norms; this block's number among the layer's own
};

// The layer that this block works on: the last one whose first block is not behind it.
template <int FIRST, class T>
__device__ __forceinline__ Layer<T> layer_of_block(const unsigned* layers, int count) {
    int own = -1;
    for (int i = 0; i < count; i += 32) {
        const int layer = i + threadIdx.x % 32;
        const bool before = layer < count && ld_reused(layers + size_t(layer) * WORDS + FIRST) <= blockIdx.x;
        own += __popc(__ballot_sync(0xFFFFFFFF, before));
    }
    const unsigned* at = layers + size_t(own) * WORDS;
    unsigned x[WORDS];
#pragma unroll
    for (int i = 0; i < WORDS; i += 4) {
        const uint4 four = ld_reused(reinterpret_cast<const uint4*>(at + i));
        x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
    }
    const auto address = [&](int i) { return uintptr_t(x[i]) | uintptr_t(x[i + 1]) << 32; };
    const auto floats = [&](int i) { return reinterpret_cast<float*>(address(i)); };
    return {reinterpret_cast<const T*>(address(0)), floats(2), floats(4), floats(6), floats(8), floats(10), int(x[12]), int(x[13]),
        int(x[14]), __uint_as_float(x[15]), int(x[16]), int(blockIdx.x - x[FIRST])};
}

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

template <int W, class T>
__device__ void gram(float* g, const float* a, int row, int column, int inner, int rank) {
    float sum = 0.0f;
#pragma unroll 4
    for (int i = threadIdx.x % 32 * W; i < inner; i += 32 * W) {
        float x[W], y[W];
        load_reused(a + size_t(column) * inner + i, y);
        if (row == column) load(a + size_t(row) * inner + i, x); // the one time that memory is read
        else load_reused(a + size_t(row) * inner + i, x);
#pragma unroll
        for (int j = 0; j < W; j++) sum += rounded<T>(x[j]) * rounded<T>(y[j]);
        flops(2 * W);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) st(g + size_t(row) * rank + column, sum);
}

template <class T>
__device__ __forceinline__ void gram(const unsigned* layers, int count) {
    const auto layer = layer_of_block<FIRST_OF_GRAM, T>(layers, count);
    const int row = layer.block % layer.rank, column = layer.block / layer.rank * WARPS + threadIdx.x / 32;
    if (column >= layer.rank) return;
    layer.inner % 4 == 0 ? gram<4, T>(layer.gram, layer.a, row, column, layer.inner, layer.rank)
                         : gram<1, T>(layer.gram, layer.a, row, column, layer.inner, layer.rank);
}

// Shared memory of dora_norms: tiles of B and G, U's columns, and which rows have to be computed exactly.
struct Tiles {
    float b[MOST][33], g[32][33], u[32][MOST + 1];
    int cancelled[MOST];
};

// Columns k to k + 31 of U for the block's rows, with zeros behind the rank.
template <int TILES, int N>
__device__ __forceinline__ void cross(Tiles& tiles, const bf16* w, const float* a, int first, int k, int out, int inner, int rank) {
    float sum[TILES][N / 8][4];
    onto_rank<TILES, N, true>(w, a, first, k, out, inner, rank, sum);
    if (threadIdx.x >= 32) return;
#pragma unroll
    for (int i = 0; i < TILES; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int row = 16 * i + 8 * (e / 2) + threadIdx.x / 4, column = 8 * j + 2 * (threadIdx.x % 4) + e % 2;
                tiles.u[column][row] = j < N / 8 ? sum[i][j % (N / 8)][e] : 0.0f;
            }
        }
    }
}
template <int TILES, int N>
__device__ __forceinline__ void cross(Tiles& tiles, const float* w, const float* a, int first, int k, int out, int inner, int rank) {
    const int lane = threadIdx.x % 32;
    for (int row = threadIdx.x / 32; row < 16 * TILES; row += WARPS) {
        for (int column = 0; column < 32; column++) {
            float sum = 0.0f;
            for (int i = lane; i < inner && first + row < out && k + column < rank; i += 32) {
                const float* own = w + size_t(first + row) * inner + i;
                sum += (k + column == 0 ? ld(own) : ld_reused(own)) * ld_reused(a + size_t(k + column) * inner + i);
                flops(2);
            }
            sum = warp_sum(sum);
            if (lane == 0) tiles.u[column][row] = sum;
        }
    }
}

// ‖w_o + s·b_o·A‖ by the whole block.
template <class T>
__device__ float exact_norm(const T* w, const float* a, const float* b, float s, int o, int inner, int rank) {
    double square = 0.0;
    for (int i = threadIdx.x; i < inner; i += 32 * WARPS) {
        double x = to_f32(ld(w + size_t(o) * inner + i));
        for (int k = 0; k < rank; k++) {
            x += double(s) * double(rounded<T>(ld_reused(b + size_t(o) * rank + k))) * double(rounded<T>(ld_reused(a + size_t(k) * inner + i)));
        }
        square += x * x;
        flops(2 * rank + 2);
    }
    return float(sqrt(block_sum(square)));
}

template <int TILES, int N, class T>
__device__ __forceinline__ void norms(Tiles& tiles, const Layer<T>& layer) {
    constexpr int TILE = 16 * TILES, OWN = TILE / WARPS; // rows of the block, of a warp
    const auto [w, a, b, base, n, gram, out, inner, rank, s, rows, block] = layer;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = block * TILE;
    double twice[OWN] = {}, square[OWN] = {};
    const int last = N == 16 ? 16 : rank; // so that with 16 there is no loop, and no sum to be kept through the product
    for (int k = 0; k < last; k += 32) {
        cross<TILES, N>(tiles, w, a, first, k, out, inner, rank);
        float spread[OWN] = {}, own[OWN] = {}; // (B·G)_k and B_k of the warp's rows, k this lane's
        for (int j = 0; j < rank; j += 32) {
            for (int i = warp; i < TILE; i += WARPS) {
                const bool inside = first + i < out && j + lane < rank;
                tiles.b[i][lane] = inside ? rounded<T>(ld(b + size_t(first + i) * rank + j + lane)) : 0.0f;
            }
            for (int i = warp; i < 32; i += WARPS) {
                tiles.g[i][lane] = j + i < rank && k + lane < rank ? ld_reused(gram + size_t(j + i) * rank + k + lane) : 0.0f;
            }
            __syncthreads();
            for (int i = 0; i < N; i++) {
#pragma unroll
                for (int row = 0; row < OWN; row++) spread[row] += tiles.b[warp * OWN + row][i] * tiles.g[i][lane];
            }
            if (j == k) {
#pragma unroll
                for (int row = 0; row < OWN; row++) own[row] = tiles.b[warp * OWN + row][lane];
            }
            flops(2 * N * OWN);
            __syncthreads();
        }
#pragma unroll
        for (int row = 0; row < OWN; row++) {
            twice[row] += double(own[row]) * double(tiles.u[lane][warp * OWN + row]);
            square[row] += double(own[row]) * double(spread[row]);
        }
        flops(4 * OWN);
        __syncthreads(); // U's columns have been read
    }
#pragma unroll
    for (int row = 0; row < OWN; row++) {
        const int o = first + warp * OWN + row;
        const double u = 2.0 * double(s) * warp_sum(twice[row]), g = double(s) * double(s) * warp_sum(square[row]);
        if (lane != 0) continue;
        const double norm = o < out ? double(ld(base + o)) : 0.0, sum = norm + u + g, sizes = fabs(norm) + fabs(u) + fabs(g);
        // A NaN stays one, so that a base that is not finite shows in the loss.
        if (o < out) st(n + o, float(sqrt(sum < 0.0 ? 0.0 : sum)));
        tiles.cancelled[warp * OWN + row] = sizes > 0.0 && sum < 0.01 * sizes;
    }
    __syncthreads();
    for (unsigned left = __ballot_sync(0xFFFFFFFF, lane < TILE && tiles.cancelled[lane]); left != 0; left &= left - 1) {
        const int row = __ffs(left) - 1;
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
extern "C" __global__ void __launch_bounds__(256) dora_gram_f32(const unsigned* layers, int count) { gram<float>(layers, count); }
extern "C" __global__ void __launch_bounds__(256) dora_gram_bf16(const unsigned* layers, int count) { gram<bf16>(layers, count); }
extern "C" __global__ void __launch_bounds__(256, 2) dora_norms_f32(const unsigned* layers, int count) {
    __shared__ Tiles tiles;
    norms<1, 32>(tiles, layer_of_block<FIRST_OF_NORMS, float>(layers, count));
}
extern "C" __global__ void __launch_bounds__(256, 2) dora_norms_bf16(const unsigned* layers, int count) {
    __shared__ Tiles tiles;
    const auto layer = layer_of_block<FIRST_OF_NORMS, bf16>(layers, count);
    if (layer.rank > 16) norms<1, 32>(tiles, layer);
    else if (layer.rows == 16) norms<1, 16>(tiles, layer);
    else norms<2, 16>(tiles, layer);
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
