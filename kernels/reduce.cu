// Sums that repeat to the bit: the number of parts depends on the lengths alone, and each part is added in a fixed order.
//
//   clip: out = {norm, factor, loss} in f64: norm = √(Σ parts) of adamw.cu's sum_of_squares, loss = Σ losses, and factor = min(1, most / (norm + 1e-6)), PyTorch's
//     clip_grad_norm_, or 1 where most is 0; NaN where norm or loss is not finite, by which the update knows to do nothing.
//   column_parts: parts (count, columns) of f32 = sums over every count-th row of x (rows, columns) of T.
//   column_sum: y (columns) = Σ over the parts (count, columns), both f32, added to what y holds where `accumulate` is not 0.
//
// Grid: one block for clip; for the columns a thread a group of columns in x, a part in y. Outputs are overwritten unless said.
// Traffic: one read of the input. Bound by bandwidth.
#include "common.cuh"

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
