// attention.cu and attention_backward.cu in f32, for exactness: the same formulas, shapes, tiles and grids, D up to 128, pack 1
// and no splits. Plain FMA; every exponential is of e. Outputs are overwritten, sums are taken in one order.
//
// A warp takes every fourth of a block's 64 rows in turn. Rows of the other side pass through shared memory 32 at a time: a lane
// computes the score of one of them, and then takes columns of the row's sums, which lie in shared memory where only that lane
// looks. Rows there are one element longer, so that lanes on different rows read different banks.
// Bound by shared memory (two reads a FMA): not the way to train fast.
#include "attention.cuh"

constexpr int STEP = 32; // rows of the other side at a time

// Rows first to first + STEP of the other side, those from `end` on zero: row r of `from` lies at at(r).
template <class At>
__device__ __forceinline__ void copy_step(float* to, const float* from, int first, int end, int width, At at) {
    for (int i = threadIdx.x; i < STEP * width; i += 32 * WARPS) {
        const int r = first + i / width;
        to[i / width * (width + 1) + i % width] = r < end ? ld(from + at(r) + i % width) : 0.0f;
    }
}

// A row of global memory, which all lanes read, times this lane's row in shared memory.
__device__ __forceinline__ float dot(const float* row, const float* other, int width) {
    float sum = 0.0f;
    for (int i = 0; i < width; i++) sum += ld_reused(row + i) * other[i];
    flops(2 * width);
    return sum;
}

// sum (width) += Σ over STEP of the factors times the other side's rows.
__device__ __forceinline__ void add_rows(float* sum, const float* factors, const float* others, int width) {
    for (int i = threadIdx.x % 32; i < width; i += 32) {
        float x = sum[i];
        for (int j = 0; j < STEP; j++) x += factors[j] * others[j * (width + 1) + i];
        sum[i] = x;
        flops(2 * STEP);
    }
}

extern "C" __global__ void __launch_bounds__(128) attention_forward_f32(const float* q, const float* k, const float* v, const unsigned* tiles,
    float* o, float* lse, int heads, int group, int queries, int width, float scale) {
    __shared__ float largest[TILE], sums[TILE], p[WARPS][STEP];
    float* out = reinterpret_cast<float*>(dynamic_smem());
    float* keys = out + TILE * width;
    float* values = keys + STEP * (width + 1);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y;
    const Tile tile = tile_at(tiles, blockIdx.x);
    const int rows = min(TILE, tile.end - tile.query), visible = tile.seen + rows - 1;
    const auto own = [&](int r) { return (size_t(tile.query + r) * heads + head) * width; };
    const auto other = [&](int r) { return (size_t(tile.key + r) * (heads / group) + head / group) * width; };
    for (int i = threadIdx.x; i < TILE; i += 32 * WARPS) largest[i] = -INFINITY, sums[i] = 0.0f;
    for (int r = warp; r < rows; r += WARPS) {
        for (int i = lane; i < width; i += 32) out[r * width + i] = 0.0f;
    }
    for (int first = 0; first < visible; first += STEP) {
        __syncthreads(); // the last step's rows have been used
        copy_step(keys, k, first, visible, width, other);
        copy_step(values, v, first, visible, width, other);
        __syncthreads();
        for (int r = warp; r < rows; r += WARPS) {
            if (first >= tile.seen + r) continue;
            const bool seen = first + lane < tile.seen + r;
            const float s = seen ? scale * dot(q + own(r), keys + lane * (width + 1), width) : -INFINITY;
            const float before = largest[r], top = fmaxf(before, warp_max(s));
            const float fade = expf(before - top), weight = seen ? expf(s - top) : 0.0f;
            const float sum = sums[r] * fade + warp_sum(weight);
            __syncwarp(); // the last row's weights have been used, and this row's statistics read
            p[warp][lane] = weight;
            if (lane == 0) largest[r] = top, sums[r] = sum;
            __syncwarp();
            for (int i = lane; i < width; i += 32) out[r * width + i] *= fade;
            add_rows(out + r * width, p[warp], values, width);
        }
    }
    for (int r = warp; r < rows; r += WARPS) {
        for (int i = lane; i < width; i += 32) st(o + own(r) + i, out[r * width + i] / sums[r]);
        if (lane == 0) st(lse + size_t(head) * queries + tile.query + r, largest[r] + logf(sums[r]));
    }
}

extern "C" __global__ void __launch_bounds__(128) attention_dq_f32(const float* q, const float* k, const float* v, const float* d_o,
    const float* lse, const float* delta, const unsigned* tiles, float* dq, int heads, int group, int queries, int width, float scale) {
    __shared__ float ds[WARPS][STEP];
    float* sum = reinterpret_cast<float*>(dynamic_smem());
    float* keys = sum + TILE * width;
    float* values = keys + STEP * (width + 1);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y;
    const Tile tile = tile_at(tiles, blockIdx.x);
    const int rows = min(TILE, tile.end - tile.query), visible = tile.seen + rows - 1;
    const auto own = [&](int r) { return (size_t(tile.query + r) * heads + head) * width; };
    const auto other = [&](int r) { return (size_t(tile.key + r) * (heads / group) + head / group) * width; };
    for (int r = warp; r < rows; r += WARPS) {
        for (int i = lane; i < width; i += 32) sum[r * width + i] = 0.0f;
    }
    for (int first = 0; first < visible; first += STEP) {
        __syncthreads(); // the last step's rows have been used
        copy_step(keys, k, first, visible, width, other);
        copy_step(values, v, first, visible, width, other);
        __syncthreads();
        for (int r = warp; r < rows; r += WARPS) {
            if (first >= tile.seen + r) continue;
            const size_t at = size_t(head) * queries + tile.query + r;
            float x = 0.0f;
            if (first + lane < tile.seen + r) {
                const float weight = expf(scale * dot(q + own(r), keys + lane * (width + 1), width) - ld_reused(lse + at));
                x = weight * (dot(d_o + own(r), values + lane * (width + 1), width) - ld_reused(delta + at));
            }
            __syncwarp(); // the last row's have been used
            ds[warp][lane] = x;
            __syncwarp();
            add_rows(sum + r * width, ds[warp], keys, width);
        }
    }
    for (int r = warp; r < rows; r += WARPS) {
        for (int i = lane; i < width; i += 32) st(dq + own(r) + i, sum[r * width + i] * scale);
    }
}

extern "C" __global__ void __launch_bounds__(128) attention_dkv_f32(const float* q, const float* k, const float* v, const float* d_o,
    const float* lse, const float* delta, const unsigned* tiles, float* dk, float* dv, int heads, int group, int queries, int width,
    float scale) {
    __shared__ float p[WARPS][STEP], ds[WARPS][STEP];
    float* sum_k = reinterpret_cast<float*>(dynamic_smem());
    float* sum_v = sum_k + TILE * width;
    float* qs = sum_v + TILE * width;
    float* d_os = qs + STEP * (width + 1);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, kv_head = blockIdx.y;
    const Tile tile = tile_at(tiles, blockIdx.x);
    const int count = tile.end - tile.query, rows = min(TILE, count);
    const auto own = [&](int r) { return (size_t(tile.query + r) * (heads / group) + kv_head) * width; };
    for (int r = warp; r < rows; r += WARPS) {
        for (int i = lane; i < width; i += 32) sum_k[r * width + i] = sum_v[r * width + i] = 0.0f;
    }
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        const auto other = [&](int r) { return (size_t(tile.query + r) * heads + head) * width; };
        for (int first = 0; first < count; first += STEP) {
            __syncthreads(); // the last step's rows have been used
            copy_step(qs, q, first, count, width, other);
            copy_step(d_os, d_o, first, count, width, other);
            __syncthreads();
            for (int r = warp; r < rows; r += WARPS) {
                const int query = first + lane; // this lane's, of those from the tile's first on
                const size_t at = size_t(head) * queries + tile.query + query;
                float weight = 0.0f, x = 0.0f;
                if (query >= r && query < count) {
                    weight = expf(scale * dot(k + own(r), qs + lane * (width + 1), width) - ld_reused(lse + at));
                    x = weight * (dot(v + own(r), d_os + lane * (width + 1), width) - ld_reused(delta + at));
                }
                __syncwarp(); // the last row's have been used
                p[warp][lane] = weight, ds[warp][lane] = x;
                __syncwarp();
                add_rows(sum_v + r * width, p[warp], d_os, width);
                add_rows(sum_k + r * width, ds[warp], qs, width);
            }
        }
    }
    for (int r = warp; r < rows; r += WARPS) {
        for (int i = lane; i < width; i += 32) {
            st(dk + own(r) + i, sum_k[r * width + i] * scale);
            st(dv + own(r) + i, sum_v[r * width + i]);
        }
    }
}
