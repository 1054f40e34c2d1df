// Causal attention within documents, grouped queries, forward (Dao, 2023: FlashAttention-2):
//   o_i = Σ_{j ≤ i} softmax_j(scale · q_i·k_j) v_j for every head, and lse_i = log Σ_j e^{scale · q_i·k_j}.
//
// q, o (n, heads · D), k, v (keys, heads/group · D) of bf16; query head h reads key head h / group; lse (heads, n) of f32. D is 16, 32,
// 64 or 128. Outputs are overwritten. Products take bf16 and add in f32; the probabilities are rounded to bf16 for theirs.
//
// Grid: x over tiles (attention.cuh; the host lists them, so that documents need no search), y over heads / pack, z over splits of
// the keys. A block takes 64 rows: 64/pack queries of `pack` heads that share a key head. A warp keeps 16 rows of Q, their
// scores and their sums in registers; K and V pass through shared memory 64 keys at a time, K of the next step under the product
// with V of this one. Tiles that the diagonal does not cross need no mask, and those above it are never read.
//
// Training has pack = 1 and one split. Generating has few queries and many keys: then pack = group, so that K and V are read once
// for all heads that share them, and the splits fill the device; each leaves its o (splits, n, heads · D) in f32 in `partial` and
// its lse (splits, heads, n), and attention_combine adds them: o = Σ o_z e^{lse_z − max} / Σ e^{lse_z − max}.
//
// Bound by the tensor cores in training: 2 · D FLOPs for each of 2 bytes of K and V, for a tile of 64 queries; K and V are read
// again for every 64 queries, and by every head of a group, from cache. Bound by bandwidth in generating: K and V once.
#include "attention.cuh"

template <int D>
__device__ __forceinline__ void forward(const bf16* q, const bf16* k, const bf16* v, const unsigned* tiles, bf16* o, float* lse, float* partial,
    int heads, int group, int pack, int queries, float scale) {
    bf16* keys = reinterpret_cast<bf16*>(dynamic_smem());
    bf16* values = keys + TILE * STRIDE<D>;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const Tile tile = tile_at(tiles, blockIdx.x);
    const int head = blockIdx.y * pack;
    // Row r of the block is query r / pack of the tile, and head r % pack of those that share keys.
    const int rows = min(TILE / pack, tile.end - tile.query) * pack;
    const auto element = [&](int r) { return (size_t(tile.query + r / pack) * heads + head + r % pack) * D; };

    for (int i = threadIdx.x; i < TILE * (D / 8); i += 32 * WARPS) {
        const int r = i / (D / 8), column = i % (D / 8) * 8;
        cp_async16(keys + r * STRIDE<D> + column, r < rows ? q + element(r) + column : q, r < rows ? 16 : 0);
    }
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    uint32_t qs[D / 16][4];
#pragma unroll
    for (int i = 0; i < D / 16; i++) fragment_a<D>(qs[i], keys + warp * 16 * STRIDE<D> + 16 * i);
    __syncthreads();

    const int visible = tile.seen + (rows - 1) / pack; // keys that the last query sees
    const int steps = (visible + TILE - 1) / TILE, share = (steps + gridDim.z - 1) / gridDim.z;
    const int first = blockIdx.z * share, last = min(steps, first + share);
    const size_t stride = size_t(heads / group) * D, start = tile.key * stride + head / group * D;
    const auto copy_keys = [&](bf16* to, const bf16* from, int step) {
        copy_rows<D, TILE>(to, from + start + step * TILE * stride, stride, visible - step * TILE);
        cp_async_commit();
    };

    float out[D / 8][4] = {}, largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    const float scale2 = scale * LOG2E; // exponentials are of 2
    // Keys that rows g and g + 8 of this warp see.
    const int seen[2] = {tile.seen + (warp * 16 + g) / pack, tile.seen + (warp * 16 + g + 8) / pack};
    if (first < last) copy_keys(keys, k, first);
    for (int step = first; step < last; step++) {
        cp_async_wait<0>();
        __syncthreads(); // K is there, and V of the last step has been used
        copy_keys(values, v, step);
        float s[TILE / 8][4] = {};
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
#pragma unroll
            for (int j = 0; j < TILE / 8; j += 2) {
                uint32_t b[4];
                fragment_b_rows<D>(b, keys + j * 8 * STRIDE<D> + 16 * i);
                mma_twice(s[j], s[j + 1], qs[i], b);
            }
        }
        cp_async_wait<0>();
        __syncthreads(); // V is there, and K has been used
        if (step + 1 < last) copy_keys(keys, k, step + 1);

        if ((step + 1) * TILE > tile.seen) {
#pragma unroll
            for (int j = 0; j < TILE / 8; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    if (step * TILE + 8 * j + 2 * t + e % 2 >= seen[e / 2]) s[j][e] = -INFINITY;
                }
            }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = largest[half];
#pragma unroll
            for (int j = 0; j < TILE / 8; j++) top = fmaxf(top, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
            top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFF, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFF, top, 2));
            // A row that has seen no key yet has no largest score to take off.
            const float off = top == -INFINITY ? 0.0f : top * scale2;
            const float fade = exp2_fast(largest[half] * scale2 - off);
            largest[half] = top;
            sum[half] *= fade;
#pragma unroll
            for (int j = 0; j < D / 8; j++) out[j][2 * half] *= fade, out[j][2 * half + 1] *= fade;
#pragma unroll
            for (int j = 0; j < TILE / 8; j++) {
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    s[j][e] = exp2_fast(s[j][e] * scale2 - off);
                    sum[half] += s[j][e];
                }
            }
        }
        add_product<D>(out, s, values);
        flops(4 * TILE + 4 * D / 8);
    }

    float by[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float all = sum[half] + __shfl_xor_sync(0xFFFFFFFF, sum[half], 1);
        all += __shfl_xor_sync(0xFFFFFFFF, all, 2);
        by[half] = all == 0.0f ? 0.0f : 1.0f / all;
        const int r = warp * 16 + g + 8 * half;
        if (r < rows && t == 0) {
            const size_t row = size_t(blockIdx.z * heads + head + r % pack) * queries + tile.query + r / pack;
            st(lse + row, all == 0.0f ? -INFINITY : largest[half] * scale + logf(all));
        }
        if (partial && r < rows) {
            float* to = partial + size_t(blockIdx.z) * queries * heads * D + element(r) + 2 * t;
#pragma unroll
            for (int j = 0; j < D / 8; j++) {
                const float2 two = make_float2(out[j][2 * half] * by[half], out[j][2 * half + 1] * by[half]);
                st(reinterpret_cast<float2*>(to + 8 * j), two);
            }
        }
    }
    if (partial) return;
    // K has been used by all: the last step has none to copy.
    store_rows<D>(keys + warp * 16 * STRIDE<D>, out, by,
        [&](int r) { return warp * 16 + r < rows ? o + element(warp * 16 + r) : nullptr; });
}

extern "C" __global__ void __launch_bounds__(128) attention_forward_16_bf16(const bf16* q, const bf16* k, const bf16* v, const unsigned* tiles,
    bf16* o, float* lse, float* partial, int heads, int group, int pack, int queries, float scale) {
    forward<16>(q, k, v, tiles, o, lse, partial, heads, group, pack, queries, scale);
}
extern "C" __global__ void __launch_bounds__(128) attention_forward_32_bf16(const bf16* q, const bf16* k, const bf16* v, const unsigned* tiles,
    bf16* o, float* lse, float* partial, int heads, int group, int pack, int queries, float scale) {
    forward<32>(q, k, v, tiles, o, lse, partial, heads, group, pack, queries, scale);
}
extern "C" __global__ void __launch_bounds__(128) attention_forward_64_bf16(const bf16* q, const bf16* k, const bf16* v, const unsigned* tiles,
    bf16* o, float* lse, float* partial, int heads, int group, int pack, int queries, float scale) {
    forward<64>(q, k, v, tiles, o, lse, partial, heads, group, pack, queries, scale);
}
extern "C" __global__ void __launch_bounds__(128) attention_forward_128_bf16(const bf16* q, const bf16* k, const bf16* v, const unsigned* tiles,
    bf16* o, float* lse, float* partial, int heads, int group, int pack, int queries, float scale) {
    forward<128>(q, k, v, tiles, o, lse, partial, heads, group, pack, queries, scale);
}

// A warp a query and head; lanes take columns.
extern "C" __global__ void __launch_bounds__(128) attention_combine_bf16(const float* partial, const float* lse, bf16* o, int heads, int queries,
    int width, int splits) {
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, query = row / heads, head = row % heads;
    if (row >= queries * heads) return;
    float largest = -INFINITY;
    for (int z = 0; z < splits; z++) largest = fmaxf(largest, ld_reused(lse + size_t(z * heads + head) * queries + query));
    for (int i = threadIdx.x % 32; i < width; i += 32) {
        float sum = 0.0f, all = 0.0f;
        for (int z = 0; z < splits; z++) {
            const float weight = __expf(ld_reused(lse + size_t(z * heads + head) * queries + query) - largest);
            sum += weight * ld(partial + (size_t(z) * queries * heads + row) * width + i);
            all += weight;
        }
        st(o + size_t(row) * width + i, from_f32<bf16>(sum / all));
        flops(4 * splits + 1);
    }
}
