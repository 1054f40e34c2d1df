// DoRA over the rows t of a batch: y = g ⊙ (z + s·low) + b, and back (Liu et al., 2024; the norm counts as a constant, §4.3).
//
// z (rows, out) = x·Wᵀ of T comes from a matrix product, y from low_rank.cu. m, n, b (out) are f32, b may be missing; g = m/n, and 1
// where n is 0. With dropout (as PEFT), base = x·Wᵀ, z = x̃·Wᵀ and low = h·Bᵀ: y = base + (g − 1) ⊙ z + g ⊙ s·low + b.
//
//   dora_compose_dropout   y, which may be base, and z + s·low in z                     5 elements of traffic
//   dora_backward          dz = g ⊙ dy, which may be dy; where asked for, rest = (g − 1) ⊙ dy, dropout's straight way through W, and
//                          dh = s·dz·B, up to r = 32; sums of dy ⊙ (v − b) over 32 rows each, v = y, or z + s·low with dropout
//                          (and no b)                                                   3 (4)
//   dora_magnitude         dm = Σ / m where v = y, Σ / n where v = z + s·low; 0 where n is 0. From y, and where 0 < n and |m| <= 1e-6 n, so
//                          that y does not hold z, Σ_t dy_t · (x_t·w + s·h_t·b) / n; of other columns dy, x, h, W and B are not read
//
// Every output is overwritten. Sums are taken in one order: results repeat to the bit. Arithmetic is f32, the product of bf16 (low_rank.cuh).
// Bound by bandwidth. With a large b and T = bf16, y − b keeps only bf16's share of b; a caller who minds keeps v before b, and passes no b.
//
// compose_dropout: x over strips of 32·W columns, y over 64 rows; a lane keeps its columns, a warp walks rows. backward, bf16: a block takes
// 32 rows, and all columns where it computes dh, else y over parts of them; a warp takes 128 columns, two rows at a time, loads the next
// four rows while it computes with these, and multiplies 16 rows of dz by tensor cores once it has them. In compose_dropout the vectors add 12 B / 64 rows an element; in backward the
// sums add 4 B / 32 rows, and B, m, n and b come from a cache. magnitude: a block takes 32 columns.
#include "low_rank.cuh"

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

// ---- backward ----

constexpr int BACK_WARPS = 16;
constexpr int BACK_ROWS = 32;      // of a block, and of a strip of sums
constexpr int SLAB = 128;          // columns that a warp takes at a time
constexpr int PITCH = SLAB + 8;    // of a row of dz in shared memory, so that ldmatrix meets no bank twice
constexpr int PAIRS = 2;           // of rows whose loads are under way together

// Part k of a slab of B, 16 of its rows, as the right operand of the products by N columns: column COLUMNS·g + j of B is column g of j.
template <int COLUMNS>
__device__ __forceinline__ void part_of(const float* b, int k, int width, int rank, uint32_t (&right)[COLUMNS][2]) {
    const int lane = threadIdx.x % 32, column = COLUMNS * (lane / 4);
    float x[4][COLUMNS] = {};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int row = k + 2 * (lane % 4) + 8 * (i / 2) + i % 2;
        const float* own = b + size_t(row) * rank + column;
        if (rank % COLUMNS == 0) {
            if (row < width && column < rank) load_narrow(own, x[i]);
        } else {
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                if (row < width && column + j < rank) x[i][j] = ld_reused(own + j);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
        right[j][0] = pack_bf16x2(x[0][j], x[1][j]);
        right[j][1] = pack_bf16x2(x[2][j], x[3][j]);
    }
}

// N columns of dh, or none with 0. A warp has a row's 256 bytes in half of its lanes, and hands dz on to the product in shared memory.
template <int N>
__device__ void backward_slabs(const bf16* dy, const bf16* value, const float* m, const float* n, const float* bias, const float* b,
    float s, bf16* dz, bf16* rest, bf16* dh, float* partial, int rows, int width, int rank) {
    constexpr int TILES = BACK_ROWS / 16, COLUMNS = N ? N / 8 : 1, PARTS = SLAB / 16, BATCHES = 16 / (2 * PAIRS);
    constexpr bool HELD = N == 16; // whether registers suffice to keep B for both tiles
    constexpr int UNROLL = HELD ? PARTS : 1;
    const int lane = threadIdx.x % 32, half = lane / 16, first = blockIdx.x * BACK_ROWS, end = min(rows, first + BACK_ROWS);
    bf16* staged = reinterpret_cast<bf16*>(dynamic_smem()) + threadIdx.x / 32 * 16 * PITCH;
    float sum[TILES][COLUMNS][4] = {};
    const int warp = blockIdx.y * BACK_WARPS + threadIdx.x / 32, warps = gridDim.y * BACK_WARPS;
    for (int slab = warp * SLAB; slab < width; slab += warps * SLAB) {
        const int at = slab + lane % 16 * 8;
        const bool inside = at < width;
        // dy and v of this lane's rows of a batch; zeros where there are none.
        uint4 next[PAIRS][2];
        int row = first + half; // this lane's first of the batch
        const auto fetch = [&](int row) {
#pragma unroll
            for (int i = 0; i < PAIRS; i++) {
                const size_t place = size_t(row + 2 * i) * width + at;
                const bool own = inside && row + 2 * i < end;
                next[i][0] = own ? ld16(dy + place) : make_uint4(0, 0, 0, 0);
                next[i][1] = own ? ld16(value + place) : make_uint4(0, 0, 0, 0);
            }
        };
        fetch(row);
        float gain[8] = {}, shift[8] = {}, of_column[8] = {};
        if (inside) {
            gains(m, n, at, gain);
            if (bias) load_reused(bias + at, shift);
        }
        uint32_t right[HELD ? PARTS : 1][COLUMNS][2];
        if constexpr (HELD) {
#pragma unroll
            for (int part = 0; part < PARTS; part++) part_of<COLUMNS>(b, slab + 16 * part, width, rank, right[part]);
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            bf16* to = staged + half * PITCH + lane % 16 * 8;
#pragma unroll 1
            for (int batch = 0; batch < BATCHES; batch++, row += 2 * PAIRS, to += 2 * PAIRS * PITCH) {
                uint4 now[PAIRS][2];
#pragma unroll
                for (int i = 0; i < PAIRS; i++) {
                    now[i][0] = next[i][0];
                    now[i][1] = next[i][1];
                }
                fetch(row + 2 * PAIRS);
#pragma unroll
                for (int i = 0; i < PAIRS; i++) {
                    float x[8], v[8];
                    unpack<bf16>(now[i][0], x);
                    unpack<bf16>(now[i][1], v);
                    const bool own = inside && row + 2 * i < end;
                    const size_t place = size_t(row + 2 * i) * width + at;
#pragma unroll
                    for (int e = 0; e < 8; e++) of_column[e] += x[e] * (v[e] - shift[e]);
                    if (rest) {
#pragma unroll
                        for (int e = 0; e < 8; e++) v[e] = (gain[e] - 1.0f) * x[e];
                        if (own) store(rest + place, v);
                    }
#pragma unroll
                    for (int e = 0; e < 8; e++) x[e] *= gain[e];
                    const uint4 scaled = pack<bf16>(x);
                    if (own) st16(dz + place, scaled);
                    if (N > 0) *reinterpret_cast<uint4*>(to + 2 * i * PITCH) = scaled;
                    flops((rest ? 6 : 4) * 8);
                }
            }
            if constexpr (N > 0) {
                __syncwarp();
#pragma unroll UNROLL
                for (int part = 0; part < PARTS; part++) {
                    if (!HELD) part_of<COLUMNS>(b, slab + 16 * part, width, rank, right[0]);
                    uint32_t left[4];
                    ldmatrix_x4(left, staged + lane % 16 * PITCH + 16 * part + half * 8);
#pragma unroll
                    for (int j = 0; j < COLUMNS; j++) mma_m16n8k16_bf16(sum[tile][j], left, right[HELD ? part : 0][j], sum[tile][j]);
                    flops(N * 16);
                }
                __syncwarp();
            }
        }
#pragma unroll
        for (int e = 0; e < 8; e++) of_column[e] += __shfl_xor_sync(0xFFFFFFFF, of_column[e], 16);
        if (half == 0 && inside) store(partial + size_t(blockIdx.x) * width + at, of_column);
    }
    if constexpr (N > 0) {
        __syncthreads(); // dz's place becomes the sums'
        add_warps<BACK_WARPS>(sum);
        if (threadIdx.x >= 32) return;
        const int g = lane / 4, t = lane % 4;
#pragma unroll
        for (int i = 0; i < TILES; i++) {
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int r = first + 16 * i + 8 * (e / 2) + g, column = COLUMNS * (2 * t + e % 2) + j;
                    if (r < rows && column < rank) st(dh + size_t(r) * rank + column, from_f32<bf16>(s * sum[i][j][e]));
                }
            }
        }
    }
}

// A thread takes columns, and then a warp rows of dh: for f32, and rows that are not aligned to sixteen bytes.
template <class T>
__device__ void backward_columns(const T* dy, const T* value, const float* m, const float* n, const float* bias, const float* b, float s,
    T* dz, T* rest, T* dh, float* partial, int rows, int width, int rank) {
    const int first = blockIdx.x * BACK_ROWS, end = min(rows, first + BACK_ROWS);
    const int thread = blockIdx.y * blockDim.x + threadIdx.x, threads = gridDim.y * blockDim.x;
    for (int column = thread; column < width; column += threads) {
        const float norm = ld_reused(n + column), gain = norm == 0.0f ? 1.0f : ld_reused(m + column) / norm;
        const float shift = bias ? ld_reused(bias + column) : 0.0f;
        float sum = 0.0f;
        for (int row = first; row < end; row++) {
            const size_t at = size_t(row) * width + column;
            const float x = to_f32(ld(dy + at));
            sum += x * (to_f32(ld(value + at)) - shift);
            st(dz + at, from_f32<T>(gain * x));
            if (rest) st(rest + at, from_f32<T>((gain - 1.0f) * x));
            flops(rest ? 6 : 4);
        }
        st(partial + size_t(blockIdx.x) * width + column, sum);
    }
    if (!dh) return;
    __syncthreads();
    for (int row = first + threadIdx.x / 32; row < end; row += BACK_WARPS) {
        for (int k = 0; k < rank; k++) {
            float sum = 0.0f;
            for (int i = threadIdx.x % 32; i < width; i += 32) {
                sum += to_f32(ld_reused(dz + size_t(row) * width + i)) * rounded<T>(ld_reused(b + size_t(i) * rank + k));
                flops(2);
            }
            sum = warp_sum(sum);
            if (threadIdx.x % 32 == 0) st(dh + size_t(row) * rank + k, from_f32<T>(s * sum));
        }
    }
}

// ---- the magnitudes' gradient ----

// dm of a column that vanished, by the block: warps take rows, lanes elements of x and h.
template <class T>
__device__ float of_vanished(const T* dy, const T* x, const T* h, const T* w, const float* b, float s, int o, int rows, int inner, int rank,
    int width) {
    float sum = 0.0f;
    for (int row = threadIdx.x / 32; row < rows; row += WARPS) {
        float straight = 0.0f, update = 0.0f;
        for (int i = threadIdx.x % 32; i < inner; i += 32) {
            straight += to_f32(ld(x + size_t(row) * inner + i)) * to_f32(ld_reused(w + size_t(o) * inner + i));
        }
        for (int i = threadIdx.x % 32; i < rank; i += 32) {
            update += to_f32(ld(h + size_t(row) * rank + i)) * ld_reused(b + size_t(o) * rank + i);
        }
        sum += to_f32(ld_reused(dy + size_t(row) * width + o)) * (straight + s * update);
    }
    return block_sum(sum);
}

// A block takes 32 columns: a warp adds every eighth strip, the first one adds the warps' sums.
template <class T>
__device__ void magnitude(float* dm, const float* partial, const T* dy, const T* x, const T* h, const T* w, const float* b, const float* m,
    const float* n, float s, int strips, int rows, int inner, int rank, int width) {
    __shared__ float sums[WARPS][32];
    __shared__ unsigned left;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (column < width) {
#pragma unroll 8
        for (int strip = warp; strip < strips; strip += WARPS) sum += ld(partial + size_t(strip) * width + column);
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0) {
        for (int other = 1; other < WARPS; other++) sum += sums[other][lane];
        bool later = false;
        if (column < width) {
            const float norm = ld(n + column), own = ld(m + column), by = dy ? own : norm;
            later = dy && vanished(own, norm);
            if (!later) st(dm + column, norm == 0.0f ? 0.0f : sum / by);
            flops(strips);
        }
        const unsigned which = __ballot_sync(0xFFFFFFFF, later);
        if (lane == 0) left = which;
    }
    __syncthreads();
    for (unsigned columns = left; columns != 0; columns &= columns - 1) {
        const int o = blockIdx.x * 32 + __ffs(columns) - 1;
        const float total = of_vanished(dy, x, h, w, b, s, o, rows, inner, rank, width);
        if (threadIdx.x == 0) st(dm + o, total / ld_reused(n + o));
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
extern "C" __global__ void __launch_bounds__(512) dora_backward_f32(const float* dy, const float* value, const float* m, const float* n,
    const float* bias, const float* b, float s, float* dz, float* rest, float* dh, float* partial, int rows, int width, int rank) {
    backward_columns(dy, value, m, n, bias, b, s, dz, rest, dh, partial, rows, width, rank);
}
extern "C" __global__ void __launch_bounds__(512, 1) dora_backward_bf16(const bf16* dy, const bf16* value, const float* m, const float* n,
    const float* bias, const float* b, float s, bf16* dz, bf16* rest, bf16* dh, float* partial, int rows, int width, int rank) {
    if (width % 8 != 0) backward_columns(dy, value, m, n, bias, b, s, dz, rest, dh, partial, rows, width, rank);
    else if (!dh) backward_slabs<0>(dy, value, m, n, bias, b, s, dz, rest, dh, partial, rows, width, rank);
    else if (rank <= 16) backward_slabs<16>(dy, value, m, n, bias, b, s, dz, rest, dh, partial, rows, width, rank);
    else backward_slabs<32>(dy, value, m, n, bias, b, s, dz, rest, dh, partial, rows, width, rank);
}
extern "C" __global__ void __launch_bounds__(256) dora_magnitude_f32(float* dm, const float* partial, const float* dy, const float* x,
    const float* h, const float* w, const float* b, const float* m, const float* n, float s, int strips, int rows, int inner, int rank,
    int width) {
    magnitude(dm, partial, dy, x, h, w, b, m, n, s, strips, rows, inner, rank, width);
}
extern "C" __global__ void __launch_bounds__(256) dora_magnitude_bf16(float* dm, const float* partial, const bf16* dy, const bf16* x,
    const bf16* h, const bf16* w, const float* b, const float* m, const float* n, float s, int strips, int rows, int inner, int rank,
    int width) {
    magnitude(dm, partial, dy, x, h, w, b, m, n, s, strips, rows, inner, rank, width);
}
