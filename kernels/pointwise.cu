// Pointwise arithmetic on n elements of T (f32 or bf16), what the tape needs beside the fused operations.
//
//   add: y = a + b    sub: y = a − b    mul: y = a · b    scale: y = alpha · a    add_row: y (rows, columns) = x + b (columns, f32)
//
// y is overwritten and may be an operand: adding into a is y = a. Arithmetic is f32, rounded once.
// Grid: sixteen bytes a thread and step, over the whole grid; add_row a block a row. Traffic in elements: 3, scale 2, add_row 2. Bound by bandwidth.
#include "common.cuh"

template <class T, class F>
__device__ __forceinline__ void binary(const T* a, const T* b, T* y, long long n, F f) {
    for_elements<T>(n, [&](long long i, auto width) {
        constexpr int W = decltype(width)::value;
        float u[W], v[W];
        load(a + i, u);
        load(b + i, v);
        for (int j = 0; j < W; j++) u[j] = f(u[j], v[j]);
        store(y + i, u);
        flops(W);
    });
}

template <class T>
__device__ __forceinline__ void add(const T* a, const T* b, T* y, long long n) {
    binary(a, b, y, n, [](float u, float v) { return u + v; });
}
template <class T>
__device__ __forceinline__ void sub(const T* a, const T* b, T* y, long long n) {
    binary(a, b, y, n, [](float u, float v) { return u - v; });
}
template <class T>
__device__ __forceinline__ void mul(const T* a, const T* b, T* y, long long n) {
    binary(a, b, y, n, [](float u, float v) { return u * v; });
}

template <class T>
__device__ __forceinline__ void scale(const T* a, T* y, float alpha, long long n) {
    for_elements<T>(n, [&](long long i, auto width) {
        constexpr int W = decltype(width)::value;
        float v[W];
        load(a + i, v);
        for (int j = 0; j < W; j++) v[j] *= alpha;
        store(y + i, v);
        flops(W);
    });
}

template <int W, class T>
__device__ __forceinline__ void add_row_by(const T* x, const float* b, T* y, int columns) {
    const size_t start = size_t(blockIdx.x) * columns;
    for (int i = threadIdx.x * W; i < columns; i += blockDim.x * W) {
        float v[W], shift[W];
        load(x + start + i, v);
        load_reused(b + i, shift);
        for (int j = 0; j < W; j++) v[j] += shift[j];
        store(y + start + i, v);
        flops(W);
    }
}
template <class T>
__device__ __forceinline__ void add_row(const T* x, const float* b, T* y, int columns) {
    columns % PER16<T> == 0 ? add_row_by<PER16<T>>(x, b, y, columns) : add_row_by<1>(x, b, y, columns);
}

extern "C" __global__ void add_f32(const float* a, const float* b, float* y, long long n) { add(a, b, y, n); }
extern "C" __global__ void add_bf16(const bf16* a, const bf16* b, bf16* y, long long n) { add(a, b, y, n); }
extern "C" __global__ void sub_f32(const float* a, const float* b, float* y, long long n) { sub(a, b, y, n); }
extern "C" __global__ void sub_bf16(const bf16* a, const bf16* b, bf16* y, long long n) { sub(a, b, y, n); }
extern "C" __global__ void mul_f32(const float* a, const float* b, float* y, long long n) { mul(a, b, y, n); }
extern "C" __global__ void mul_bf16(const bf16* a, const bf16* b, bf16* y, long long n) { mul(a, b, y, n); }
extern "C" __global__ void scale_f32(const float* a, float* y, float alpha, long long n) { scale(a, y, alpha, n); }
extern "C" __global__ void scale_bf16(const bf16* a, bf16* y, float alpha, long long n) { scale(a, y, alpha, n); }
extern "C" __global__ void add_row_f32(const float* x, const float* b, float* y, int columns) { add_row(x, b, y, columns); }
extern "C" __global__ void add_row_bf16(const bf16* x, const float* b, bf16* y, int columns) { add_row(x, b, y, columns); }
