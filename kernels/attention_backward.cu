// Backward pass of attention.cu (Dao, 2023), probabilities computed again from q, k and lse:
//   p_ij = e^{scale · q_i·k_j − lse_i}, dp_ij = do_i·v_j, δ_i = Σ do_i ⊙ o_i, ds = p ⊙ (dp − δ),
//   dq_i = scale · Σ_j ds_ij k_j,  dk_j = scale · Σ_i ds_ij q_i,  dv_j = Σ_i p_ij do_i.
//
//   attention_delta  δ (heads, n) of f32, from o and do (n, heads · D) of T. Traffic: 2 elements. Bound by bandwidth.
//   attention_dq     dq (n, heads · D): a block a tile of 64 queries and a head, over keys 32 at a time.
//   attention_dkv    dk, dv (n, heads/group · D): a block a tile of 64 keys and a key head, over the group's heads and queries 32 at a
//                    time, so that heads which share keys are added in one block.
//
// Shapes, types and tiles as in attention.cu, with as many keys as queries. Outputs are overwritten. Sums are f32, in one order and
// without atomic additions: results repeat to the bit. That costs computing scores and dp twice: 7 products of D columns in
// place of 5. p and ds are rounded to bf16 for their products.
//
// A warp keeps 16 rows; in attention_dkv rows are keys and the scores are transposed, so that p and ds are the left factors of
// their products as they come out of the one before. Own rows lie in shared memory, the others pass through it, the next
// step's under this one's products. Bound by the tensor cores; other rows are read once for 64 own rows, from cache.
#include "attention.cuh"

constexpr int STEP = 32; // rows of the other side at a time

// Scores to p, in place, and dp to ds. `visible(j, e)` says whether element e of column group j counts; off(j, e) is lse · log2 e, and
// delta(j, e) is δ, of the query that it belongs to.
template <class Visible, class Off, class Delta>
__device__ __forceinline__ void differentiate(float (&s)[STEP / 8][4], float (&dp)[STEP / 8][4], float scale2, Visible visible, Off off,
    Delta delta) {
#pragma unroll
    for (int j = 0; j < STEP / 8; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            s[j][e] = visible(j, e) ? exp2_fast(s[j][e] * scale2 - off(j, e)) : 0.0f;
            dp[j][e] = s[j][e] * (dp[j][e] - delta(j, e));
        }
    }
    flops(STEP / 8 * 4 * 5);
}

template <int D>
__device__ __forceinline__ void dq_tile(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o, const float* lse, const float* delta,
    const unsigned* tiles, bf16* dq, int heads, int group, int queries, float scale) {
    constexpr int OTHER = STEP * STRIDE<D>;
    bf16* qs = reinterpret_cast<bf16*>(dynamic_smem());
    bf16* d_os = qs + TILE * STRIDE<D>;
    bf16* keys = d_os + TILE * STRIDE<D>; // two buffers of K and V each
    bf16* values = keys + 2 * OTHER;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4, head = blockIdx.y;
    const Tile tile = tile_at(tiles, blockIdx.x);
    const int rows = min(TILE, tile.end - tile.query), visible = tile.seen + rows - 1, steps = (visible + STEP - 1) / STEP;
    const size_t stride = size_t(heads) * D, start = tile.query * stride + head * D;
    const size_t other_stride = size_t(heads / group) * D, other_start = tile.key * other_stride + head / group * D;
    const auto copy_other = [&](int step) {
        const size_t at = other_start + step * STEP * other_stride;
        copy_rows<D, STEP>(keys + step % 2 * OTHER, k + at, other_stride, visible - step * STEP);
        copy_rows<D, STEP>(values + step % 2 * OTHER, v + at, other_stride, visible - step * STEP);
    };
    copy_rows<D, TILE>(qs, q + start, stride, rows);
    copy_rows<D, TILE>(d_os, d_o + start, stride, rows);
    copy_other(0);
    cp_async_commit();

    float sum[D / 8][4] = {}, offs[2], deltas[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = warp * 16 + g + 8 * half;
        const size_t at = size_t(head) * queries + tile.query + r;
        offs[half] = r < rows ? ld(lse + at) * LOG2E : INFINITY; // no probability where there is no query
        deltas[half] = r < rows ? ld(delta + at) : 0.0f;
    }
    const bf16 *own_q = qs + warp * 16 * STRIDE<D>, *own_do = d_os + warp * 16 * STRIDE<D>;
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) {
            copy_other(step + 1);
            cp_async_commit();
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        float s[STEP / 8][4], dp[STEP / 8][4];
        product_of_rows<D>(s, own_q, keys + step % 2 * OTHER);
        product_of_rows<D>(dp, own_do, values + step % 2 * OTHER);
        differentiate(s, dp, scale * LOG2E,
            [&](int j, int e) { return step * STEP + 8 * j + 2 * t + e % 2 < tile.seen + warp * 16 + g + e / 2 * 8; },
            [&](int, int e) { return offs[e / 2]; }, [&](int, int e) { return deltas[e / 2]; });
        add_product<D>(sum, dp, keys + step % 2 * OTHER);
        __syncthreads(); // this buffer has been used
    }
    const float by[2] = {scale, scale};
    store_rows<D>(qs + warp * 16 * STRIDE<D>, sum, by,
        [&](int r) { return warp * 16 + r < rows ? dq + start + (warp * 16 + r) * stride : nullptr; });
}

template <int D>
__device__ __forceinline__ void dkv_tile(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o, const float* lse, const float* delta,
    const unsigned* tiles, bf16* dk, bf16* dv, int heads, int group, int queries, float scale) {
    constexpr int OTHER = STEP * STRIDE<D>;
    __shared__ float offs[2][STEP], deltas[2][STEP];
    bf16* keys = reinterpret_cast<bf16*>(dynamic_smem());
    bf16* values = keys + TILE * STRIDE<D>;
    bf16* qs = values + TILE * STRIDE<D>; // two buffers of Q and dO each
    bf16* d_os = qs + 2 * OTHER;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4, kv_head = blockIdx.y;
    const Tile tile = tile_at(tiles, blockIdx.x);
    const int rows = min(TILE, tile.end - tile.query);
    // Queries from the tile's first on see its keys; every head of the group goes through them.
    const int count = tile.end - tile.query, of_head = (count + STEP - 1) / STEP, steps = of_head * group;
    const size_t stride = size_t(heads / group) * D, start = tile.query * stride + kv_head * D, other_stride = size_t(heads) * D;
    const auto copy_other = [&](int step) {
        const int first = step % of_head * STEP, head = kv_head * group + step / of_head, buffer = step % 2;
        const size_t at = (tile.query + first) * other_stride + head * D;
        copy_rows<D, STEP>(qs + buffer * OTHER, q + at, other_stride, count - first);
        copy_rows<D, STEP>(d_os + buffer * OTHER, d_o + at, other_stride, count - first);
        if (threadIdx.x < STEP) {
            const int r = threadIdx.x;
            const size_t at = size_t(head) * queries + tile.query + first + r;
            offs[buffer][r] = first + r < count ? ld_reused(lse + at) * LOG2E : INFINITY; // no probability where there is no query
            deltas[buffer][r] = first + r < count ? ld_reused(delta + at) : 0.0f;
        }
    };
    copy_rows<D, TILE>(keys, k + start, stride, rows);
    copy_rows<D, TILE>(values, v + start, stride, rows);
    copy_other(0);
    cp_async_commit();

    float sum_k[D / 8][4] = {}, sum_v[D / 8][4] = {};
    const bf16 *own_k = keys + warp * 16 * STRIDE<D>, *own_v = values + warp * 16 * STRIDE<D>;
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) {
            copy_other(step + 1);
            cp_async_commit();
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        const int buffer = step % 2, first = step % of_head * STEP;
        float s[STEP / 8][4], dp[STEP / 8][4];
        product_of_rows<D>(s, own_k, qs + buffer * OTHER);
        product_of_rows<D>(dp, own_v, d_os + buffer * OTHER);
        differentiate(s, dp, scale * LOG2E,
            [&](int j, int e) { return first + 8 * j + 2 * t + e % 2 >= warp * 16 + g + e / 2 * 8; },
            [&](int j, int e) { return offs[buffer][8 * j + 2 * t + e % 2]; },
            [&](int j, int e) { return deltas[buffer][8 * j + 2 * t + e % 2]; });
        add_product<D>(sum_v, s, d_os + buffer * OTHER);
        add_product<D>(sum_k, dp, qs + buffer * OTHER);
        __syncthreads(); // this buffer has been used
    }
    const float by_k[2] = {scale, scale}, by_v[2] = {1.0f, 1.0f};
    const auto to = [&](bf16* p, int r) { return warp * 16 + r < rows ? p + start + (warp * 16 + r) * stride : nullptr; };
    store_rows<D>(keys + warp * 16 * STRIDE<D>, sum_k, by_k, [&](int r) { return to(dk, r); });
    store_rows<D>(values + warp * 16 * STRIDE<D>, sum_v, by_v, [&](int r) { return to(dv, r); });
}

// Each lane of a row takes 16 bytes; they are a power of two.
template <class T>
__device__ __forceinline__ void delta_rows(const T* o, const T* d_o, float* delta, int heads, int queries, int width) {
    constexpr int W = PER16<T>;
    const int lanes = width / W;
    const int i = blockIdx.x * blockDim.x + threadIdx.x, row = i / lanes, lane = i % lanes;
    const bool inside = row < queries * heads;
    float sum = 0.0f;
    if (inside) {
        float x[W], y[W];
        load(o + size_t(row) * width + lane * W, x);
        load(d_o + size_t(row) * width + lane * W, y);
#pragma unroll
        for (int j = 0; j < W; j++) sum += x[j] * y[j];
        flops(2 * W);
    }
    for (int bits = lanes / 2; bits > 0; bits /= 2) sum += __shfl_xor_sync(0xFFFFFFFF, sum, bits);
    if (inside && lane == 0) st(delta + size_t(row % heads) * queries + row / heads, sum);
}

extern "C" __global__ void __launch_bounds__(128) attention_delta_f32(const float* o, const float* d_o, float* delta, int heads, int queries,
    int width) {
    delta_rows(o, d_o, delta, heads, queries, width);
}
extern "C" __global__ void __launch_bounds__(128) attention_delta_bf16(const bf16* o, const bf16* d_o, float* delta, int heads, int queries,
    int width) {
    delta_rows(o, d_o, delta, heads, queries, width);
}
extern "C" __global__ void __launch_bounds__(128) attention_dq_16_bf16(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o,
    const float* lse, const float* delta, const unsigned* tiles, bf16* dq, int heads, int group, int queries, float scale) {
    dq_tile<16>(q, k, v, d_o, lse, delta, tiles, dq, heads, group, queries, scale);
}
extern "C" __global__ void __launch_bounds__(128) attention_dkv_16_bf16(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o,
    const float* lse, const float* delta, const unsigned* tiles, bf16* dk, bf16* dv, int heads, int group, int queries, float scale) {
    dkv_tile<16>(q, k, v, d_o, lse, delta, tiles, dk, dv, heads, group, queries, scale);
}
extern "C" __global__ void __launch_bounds__(128) attention_dq_32_bf16(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o,
    const float* lse, const float* delta, const unsigned* tiles, bf16* dq, int heads, int group, int queries, float scale) {
    dq_tile<32>(q, k, v, d_o, lse, delta, tiles, dq, heads, group, queries, scale);
}
extern "C" __global__ void __launch_bounds__(128) attention_dkv_32_bf16(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o,
    const float* lse, const float* delta, const unsigned* tiles, bf16* dk, bf16* dv, int heads, int group, int queries, float scale) {
    dkv_tile<32>(q, k, v, d_o, lse, delta, tiles, dk, dv, heads, group, queries, scale);
}
extern "C" __global__ void __launch_bounds__(128) attention_dq_64_bf16(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o,
    const float* lse, const float* delta, const unsigned* tiles, bf16* dq, int heads, int group, int queries, float scale) {
    dq_tile<64>(q, k, v, d_o, lse, delta, tiles, dq, heads, group, queries, scale);
}
extern "C" __global__ void __launch_bounds__(128) attention_dkv_64_bf16(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o,
    const float* lse, const float* delta, const unsigned* tiles, bf16* dk, bf16* dv, int heads, int group, int queries, float scale) {
    dkv_tile<64>(q, k, v, d_o, lse, delta, tiles, dk, dv, heads, group, queries, scale);
}
extern "C" __global__ void __launch_bounds__(128) attention_dq_128_bf16(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o,
    const float* lse, const float* delta, const unsigned* tiles, bf16* dq, int heads, int group, int queries, float scale) {
    dq_tile<128>(q, k, v, d_o, lse, delta, tiles, dq, heads, group, queries, scale);
}
extern "C" __global__ void __launch_bounds__(128) attention_dkv_128_bf16(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o,
    const float* lse, const float* delta, const unsigned* tiles, bf16* dk, bf16* dv, int heads, int group, int queries, float scale) {
    dkv_tile<128>(q, k, v, d_o, lse, delta, tiles, dk, dv, heads, group, queries, scale);
}
