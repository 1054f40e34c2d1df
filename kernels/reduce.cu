// Sums that repeat to the bit: the number of parts depends on the lengths alone, and each part is added in a fixed order.
//
//   sum_of_squares: parts[p] = Σ x² over part p of n elements of T, in f64, so that squares of finite numbers never overflow.
//   clip: out = {norm, factor, loss} in f64: norm = √(Σ parts), loss = Σ losses, and factor = min(1, most / (norm + 1e-6)), PyTorch's
//     clip_grad_norm_, or 1 where most is 0; NaN where norm or loss is not finite, by which the update knows to do nothing.
//   column_parts: parts (count, columns) of f32 = sums over every count-th row of x (rows, columns) of T.
//   column_sum: y (columns) = Σ over the parts (count, columns), both f32, added to what y holds where `accumulate` is not 0.
//
// Grid: a block a part of sum_of_squares; one block for clip; for the columns a thread a group of columns in x, a part in y.
// Outputs are overwritten unless said. Traffic: one read of the input. Bound by bandwidth; on cards with few f64 units the one
// f64 multiply-add an element still keeps up with f32 input.
#include "common.cuh"

template <class T>
__device__ __forceinline__ void squares(const T* x, double* parts, long long n) {
    double sum = 0.0;
    for_elements<T>(n, [&](long long i, auto width) {
        constexpr int W = decltype(width)::value;
        float v[W];
        load(x + i, v);
        for (int j = 0; j < W; j++) sum += double(v[j]) * v[j];
        flops(2 * W);
    });
    sum = block_sum(sum);
    if (threadIdx.x == 0) st(parts + blockIdx.x, sum);
}

template <int W, class T>
__device__ __forceinline__ void add_rows(const T* x, float* parts, int rows, int columns) {
    sum_rows<W>(parts, rows, columns, [&](size_t at, int, float (&sum)[W]) {
        float v[W];
        load(x + at, v);
        for (int j = 0; j < W; j++) sum[j] += v[j];
        flops(W);
    });
}
template <class T>
__device__ __forceinline__ void column_parts(const T* x, float* parts, int rows, int columns) {
    columns % PER16<T> == 0 ? add_rows<PER16<T>>(x, parts, rows, columns) : add_rows<1>(x, parts, rows, columns);
}

extern "C" __global__ void sum_of_squares_f32(const float* x, double* parts, long long n) { squares(x, parts, n); }
extern "C" __global__ void sum_of_squares_bf16(const bf16* x, double* parts, long long n) { squares(x, parts, n); }

extern "C" __global__ void clip_f32(const double* parts, const float* losses, double* out, float most, int count, int passes) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += ld(parts + i);
    const double norm = sqrt(block_sum(sum));
    if (threadIdx.x != 0) return;
    const double factor = most > 0.0f ? fmin(1.0, double(most) / (norm + 1e-6)) : 1.0;
    double loss = 0.0;
    for (int i = 0; i < passes; i++) loss += ld(losses + i);
    st(out, norm);
    st(out + 1, isfinite(norm) && isfinite(loss) ? factor : double(nanf("")));
    st(out + 2, loss);
}

extern "C" __global__ void column_parts_f32(const float* x, float* parts, int rows, int columns) {
    column_parts(x, parts, rows, columns);
}
extern "C" __global__ void column_parts_bf16(const bf16* x, float* parts, int rows, int columns) {
    column_parts(x, parts, rows, columns);
}

extern "C" __global__ void column_sum_f32(const float* parts, float* y, int count, int columns, int accumulate) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= columns) return;
    float sum = accumulate ? ld(y + i) : 0.0f;
    for (int part = 0; part < count; part++) sum += ld(parts + size_t(part) * columns + i);
    flops(count);
    st(y + i, sum);
}
