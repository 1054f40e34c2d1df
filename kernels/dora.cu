// DoRA over the rows t of a batch: y = g ⊙ (z + s·low) + b, and back (Liu et al., 2024; the norm counts as a constant, §4.3).
//
// z (rows, out) = x·Wᵀ of T comes from a matrix product, y from low_rank.cu. m, n, b (out) are f32, b may be missing; g = m/n, and 1
// where n is 0. With dropout (as PEFT), base = x·Wᵀ, z = x̃·Wᵀ and low = h·Bᵀ: y = base + (g − 1) ⊙ z + g ⊙ s·low + b.
//
//   dora_compose_dropout   y, which may be base, and z + s·low in z                     5 elements of traffic
//   dora_backward          dz = g ⊙ dy, which may be dy; where asked for, rest = (g − 1) ⊙ dy, dropout's straight way through W;
//                          sums of dy ⊙ (v − b) over 64 rows each, v = y, or z + s·low with dropout (and no b)   3 (4)
//   dora_magnitude         dm = Σ / m where v = y, Σ / n where v = z + s·low; 0 where n is 0
//   dora_vanished          dm where 0 < n and |m| <= 1e-6 n, since y does not hold z there:
//                          Σ_t dy_t · (x_t·w + s · h_t·b) / n for those columns alone. Others cost nothing.
//
// Every output is overwritten. Grid: x over strips of 32·W columns, y over 64 rows; a lane keeps its columns, a warp walks rows.
// Sums are taken in one order, row by row, warp by warp, strip by strip: results repeat to the bit. Arithmetic is f32.
// Bound by bandwidth (at most 7 FLOPs an element); the vectors add (8 B, backward 12 B) / 64 rows an element.
// With a large b and T = bf16, y − b keeps only bf16's share of b; a caller who minds keeps v before b, and passes no b.
#include "common.cuh"

constexpr int WARPS = 8;
constexpr int ROWS = 64;   // of a block
constexpr int BATCH = 2;   // rows whose loads are under way together

__device__ __forceinline__ bool vanished(float m, float n) { return n > 0.0f && fabsf(m) <= 1e-6f * n; }

// g and b of this lane's columns. The block reads each once.
template <int W>
__device__ __forceinline__ void columns(const float* m, const float* n, const float* bias, int width, float (&gain)[W], float (&shift)[W]) {
    constexpr int STRIP = 32 * W;
    __shared__ float gains[STRIP], shifts[STRIP];
    const int column = blockIdx.x * STRIP + threadIdx.x;
    if (threadIdx.x < STRIP && column < width) {
        const float norm = ld(n + column);
        gains[threadIdx.x] = norm == 0.0f ? 1.0f : ld(m + column) / norm;
        shifts[threadIdx.x] = bias ? ld(bias + column) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < W; i++) {
        gain[i] = gains[threadIdx.x % 32 * W + i];
        shift[i] = shifts[threadIdx.x % 32 * W + i];
    }
}

// The first of this thread's elements of a row, or `width` and more when it has none.
template <int W>
__device__ __forceinline__ int own_column() { return (blockIdx.x * 32 + threadIdx.x % 32) * W; }

// Calls step(at, x) for each of this thread's rows: x[j] are the W elements at `at` of operand j. Loads of BATCH rows are under way
// together; in place of a row past the end the last one is loaded, so that they need no condition.
template <int W, int N, class T, class Step>
__device__ __forceinline__ void walk(int rows, int width, const T* const (&operands)[N], Step step) {
    const int column = own_column<W>(), end = min(rows, int(blockIdx.y + 1) * ROWS);
    if (column >= width) return;
    for (int row = blockIdx.y * ROWS + threadIdx.x / 32; row < end; row += WARPS * BATCH) {
        float x[BATCH][N][W];
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
#pragma unroll
            for (int j = 0; j < N; j++) load(operands[j] + size_t(min(row + k * WARPS, end - 1)) * width + column, x[k][j]);
        }
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            if (row + k * WARPS < end) step(size_t(row + k * WARPS) * width + column, x[k]);
        }
    }
}

template <int W, class T>
__device__ void compose_dropout(const T* base, const T* low, float s, const float* m, const float* n,
    const float* bias, T* z, T* y, int rows, int width) {
    float gain[W], shift[W];
    columns(m, n, bias, width, gain, shift);
    walk<W>(rows, width, {base, z, low}, [&](size_t at, float (&x)[3][W]) {
#pragma unroll
        for (int i = 0; i < W; i++) {
            const float update = s * x[2][i];
            x[0][i] += (gain[i] - 1.0f) * x[1][i] + gain[i] * update + shift[i];
            x[1][i] += update;
        }
        store(y + at, x[0]);
        store(z + at, x[1]);
        flops(7 * W);
    });
}

template <int W, class T>
__device__ void backward(const T* dy, const T* value, const float* m, const float* n, const float* bias,
    T* dz, T* rest, float* partial, int rows, int width) {
    float gain[W], shift[W], sum[W] = {};
    columns(m, n, bias, width, gain, shift);
    walk<W>(rows, width, {dy, value}, [&](size_t at, float (&x)[2][W]) {
#pragma unroll
        for (int i = 0; i < W; i++) {
            sum[i] += x[0][i] * (x[1][i] - shift[i]);
            x[1][i] = (gain[i] - 1.0f) * x[0][i];
            x[0][i] *= gain[i];
        }
        store(dz + at, x[0]);
        if (rest) store(rest + at, x[1]);
        flops((rest ? 6 : 4) * W);
    });

    constexpr int STRIP = 32 * W;
    __shared__ float sums[WARPS][STRIP];
#pragma unroll
    for (int i = 0; i < W; i++) sums[threadIdx.x / 32][threadIdx.x % 32 * W + i] = sum[i];
    __syncthreads();
    const int column = blockIdx.x * STRIP + threadIdx.x;
    if (threadIdx.x >= STRIP || column >= width) return;
    float total = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; warp++) total += sums[warp][threadIdx.x];
    st(partial + size_t(blockIdx.y) * width + column, total);
}

// A block takes 32 columns: a warp adds every eighth strip.
extern "C" __global__ void __launch_bounds__(256) dora_magnitude_f32(float* dm, const float* partial, const float* m, const float* n,
    int from_output, int strips, int width) {
    __shared__ float sums[WARPS][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (column < width) {
        for (int strip = warp; strip < strips; strip += WARPS) sum += ld(partial + size_t(strip) * width + column);
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || column >= width) return;
    for (int other = 1; other < WARPS; other++) sum += sums[other][lane];
    const float norm = ld(n + column), by = from_output ? ld(m + column) : norm;
    st(dm + column, norm == 0.0f || vanished(by, norm) ? 0.0f : sum / by);
    flops(strips);
}

// A block looks at 32 columns; for one that vanished, warps take rows and lanes elements of x and h.
template <class T>
__device__ void vanished_columns(float* dm, const T* dy, const T* x, const T* h, const T* w, const float* b, const float* m, const float* n,
    float s, int rows, int inner, int rank, int width) {
    const int lane = threadIdx.x % 32, own = blockIdx.x * 32 + lane;
    bool has_vanished = false;
    if (own < width) {
        // The first warp of a block fetches them from memory, the others from cache.
        has_vanished = threadIdx.x < 32 ? vanished(ld(m + own), ld(n + own)) : vanished(ld_reused(m + own), ld_reused(n + own));
    }
    unsigned left = __ballot_sync(0xFFFFFFFF, has_vanished);
    for (; left != 0; left &= left - 1) {
        const int o = blockIdx.x * 32 + __ffs(left) - 1;
        float sum = 0.0f;
        for (int row = threadIdx.x / 32; row < rows; row += WARPS) {
            float straight = 0.0f, update = 0.0f;
            for (int i = lane; i < inner; i += 32) {
                straight += to_f32(ld(x + size_t(row) * inner + i)) * to_f32(ld_reused(w + size_t(o) * inner + i));
            }
            for (int i = lane; i < rank; i += 32) {
                update += to_f32(ld(h + size_t(row) * rank + i)) * ld_reused(b + size_t(o) * rank + i);
            }
            sum += to_f32(ld_reused(dy + size_t(row) * width + o)) * (straight + s * update);
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) st(dm + o, sum / ld(n + o));
    }
}

extern "C" __global__ void __launch_bounds__(256) dora_compose_dropout_f32(const float* base, const float* low, float s,
    const float* m, const float* n, const float* bias, float* z, float* y, int rows, int width) {
    width % PER16<float> == 0 ? compose_dropout<PER16<float>>(base, low, s, m, n, bias, z, y, rows, width)
                              : compose_dropout<1>(base, low, s, m, n, bias, z, y, rows, width);
}
extern "C" __global__ void __launch_bounds__(256) dora_compose_dropout_bf16(const bf16* base, const bf16* low, float s,
    const float* m, const float* n, const float* bias, bf16* z, bf16* y, int rows, int width) {
    width % PER16<bf16> == 0 ? compose_dropout<PER16<bf16>>(base, low, s, m, n, bias, z, y, rows, width)
                             : compose_dropout<1>(base, low, s, m, n, bias, z, y, rows, width);
}
extern "C" __global__ void __launch_bounds__(256) dora_backward_f32(const float* dy, const float* value, const float* m,
    const float* n, const float* bias, float* dz, float* rest, float* partial, int rows, int width) {
    width % PER16<float> == 0 ? backward<PER16<float>>(dy, value, m, n, bias, dz, rest, partial, rows, width)
                              : backward<1>(dy, value, m, n, bias, dz, rest, partial, rows, width);
}
extern "C" __global__ void __launch_bounds__(256) dora_backward_bf16(const bf16* dy, const bf16* value, const float* m,
    const float* n, const float* bias, bf16* dz, bf16* rest, float* partial, int rows, int width) {
    width % PER16<bf16> == 0 ? backward<PER16<bf16>>(dy, value, m, n, bias, dz, rest, partial, rows, width)
                             : backward<1>(dy, value, m, n, bias, dz, rest, partial, rows, width);
}
extern "C" __global__ void __launch_bounds__(256) dora_vanished_f32(float* dm, const float* dy, const float* x, const float* h, const float* w,
    const float* b, const float* m, const float* n, float s, int rows, int inner, int rank, int width) {
    vanished_columns(dm, dy, x, h, w, b, m, n, s, rows, inner, rank, width);
}
extern "C" __global__ void __launch_bounds__(256) dora_vanished_bf16(float* dm, const bf16* dy, const bf16* x, const bf16* h, const bf16* w,
    const float* b, const float* m, const float* n, float s, int rows, int inner, int rank, int width) {
    vanished_columns(dm, dy, x, h, w, b, m, n, s, rows, inner, rank, width);
}
