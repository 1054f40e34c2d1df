// Root-mean-square norm (Zhang and Sennrich, 2019) with the residual addition before it.
//
//   forward:  h = x + residual (where there is one), y = w ⊙ h · rstd, rstd = 1/√(mean(h²) + eps) per row.
//   backward: dx = rstd · (w ⊙ dy − ĥ · mean(w ⊙ dy ⊙ ĥ)) + skip (where there is one), ĥ = h · rstd;
//             dw = Σ over rows of dy ⊙ ĥ, here per part of the rows; reduce.cu adds the parts.
//
// Shapes: x, residual, h, y, dy, skip, dx (rows, columns) of T; w (columns), rstd (rows), dw (parts, columns) of f32.
// Grid: a block a row. For dw a thread a group of columns in x, a part of the rows in y.
// Every output is overwritten; dx may be dy or skip. Arithmetic is f32. h is rounded to T before the norm sees it.
// Traffic, in elements: forward reads x, writes y: 2 (with a residual 4); backward 3 (with skip 4); dw 2. Bound by bandwidth:
// about 1 FLOP a byte. Values wait in shared memory between the two passes over a row, each where only its thread looks.
#include "common.cuh"

template <int W, class T>
__device__ void forward(const T* x, const T* residual, const float* w, T* h, T* y, float* rstd, int columns, float eps) {
    const size_t start = size_t(blockIdx.x) * columns;
    float* kept = reinterpret_cast<float*>(dynamic_smem()) + threadIdx.x;
    const int step = blockDim.x * W;

    float squares = 0.0f;
    int slot = 0;
    for (int i = threadIdx.x * W; i < columns; i += step) {
        float v[W];
        load(x + start + i, v);
        if (residual) {
            float r[W];
            load(residual + start + i, r);
            for (int j = 0; j < W; j++) v[j] = to_f32(from_f32<T>(v[j] + r[j]));
            store(h + start + i, v);
            flops(W);
        }
        for (int j = 0; j < W; j++) {
            kept[slot++ * blockDim.x] = v[j];
            squares += v[j] * v[j];
        }
        flops(2 * W);
    }
    const float scale = 1.0f / sqrtf(block_sum(squares) / columns + eps);
    if (threadIdx.x == 0) st(rstd + blockIdx.x, scale);

    slot = 0;
    for (int i = threadIdx.x * W; i < columns; i += step) {
        float v[W];
        load_reused(w + i, v);
        for (int j = 0; j < W; j++) v[j] *= kept[slot++ * blockDim.x] * scale;
        store(y + start + i, v);
        flops(2 * W);
    }
}

template <int W, class T>
__device__ void backward(const T* h, const float* w, const float* rstd, const T* dy, const T* skip, T* dx, int columns) {
    const size_t start = size_t(blockIdx.x) * columns;
    float* kept = reinterpret_cast<float*>(dynamic_smem()) + threadIdx.x;
    const int step = blockDim.x * W;
    const float scale = ld_reused(rstd + blockIdx.x);

    float dot = 0.0f;
    int slot = 0;
    for (int i = threadIdx.x * W; i < columns; i += step) {
        float hat[W], d[W], weight[W];
        load(h + start + i, hat);
        load(dy + start + i, d);
        load_reused(w + i, weight);
        for (int j = 0; j < W; j++) {
            hat[j] *= scale;
            d[j] *= weight[j];
            dot += d[j] * hat[j];
            kept[slot++ * blockDim.x] = hat[j];
            kept[slot++ * blockDim.x] = d[j];
        }
        flops(4 * W);
    }
    const float mean = block_sum(dot) / columns;

    slot = 0;
    for (int i = threadIdx.x * W; i < columns; i += step) {
        float v[W] = {};
        if (skip) {
            load(skip + start + i, v);
            flops(W);
        }
        for (int j = 0; j < W; j++) {
            const float hat = kept[slot++ * blockDim.x], d = kept[slot++ * blockDim.x];
            v[j] += scale * (d - hat * mean);
        }
        store(dx + start + i, v);
        flops(3 * W);
    }
}

template <int W, class T>
__device__ void backward_weight(const T* h, const float* rstd, const T* dy, float* dw, int rows, int columns) {
    sum_rows<W>(dw, rows, columns, [&](size_t at, int row, float (&sum)[W]) {
        const float scale = ld_reused(rstd + row);
        float v[W], d[W];
        load(h + at, v);
        load(dy + at, d);
        for (int j = 0; j < W; j++) sum[j] += d[j] * (v[j] * scale);
        flops(3 * W);
    });
}

// Sixteen bytes at a time where rows are aligned to them.
template <class T>
__device__ __forceinline__ void forward_any(const T* x, const T* residual, const float* w, T* h, T* y, float* rstd, int columns,
                                            float eps) {
    if (columns % PER16<T> == 0) forward<PER16<T>>(x, residual, w, h, y, rstd, columns, eps);
    else forward<1>(x, residual, w, h, y, rstd, columns, eps);
}
template <class T>
__device__ __forceinline__ void backward_any(const T* h, const float* w, const float* rstd, const T* dy, const T* skip, T* dx,
                                             int columns) {
    if (columns % PER16<T> == 0) backward<PER16<T>>(h, w, rstd, dy, skip, dx, columns);
    else backward<1>(h, w, rstd, dy, skip, dx, columns);
}
template <class T>
__device__ __forceinline__ void backward_weight_any(const T* h, const float* rstd, const T* dy, float* dw, int rows, int columns) {
    if (columns % PER16<T> == 0) backward_weight<PER16<T>>(h, rstd, dy, dw, rows, columns);
    else backward_weight<1>(h, rstd, dy, dw, rows, columns);
}

extern "C" __global__ void __launch_bounds__(256)
rms_norm_forward_f32(const float* x, const float* residual, const float* w, float* h, float* y, float* rstd, int columns, float eps) {
    forward_any(x, residual, w, h, y, rstd, columns, eps);
}
extern "C" __global__ void __launch_bounds__(256)
rms_norm_forward_bf16(const bf16* x, const bf16* residual, const float* w, bf16* h, bf16* y, float* rstd, int columns, float eps) {
    forward_any(x, residual, w, h, y, rstd, columns, eps);
}
extern "C" __global__ void __launch_bounds__(256)
rms_norm_backward_f32(const float* h, const float* w, const float* rstd, const float* dy, const float* skip, float* dx, int columns) {
    backward_any(h, w, rstd, dy, skip, dx, columns);
}
extern "C" __global__ void __launch_bounds__(256)
rms_norm_backward_bf16(const bf16* h, const float* w, const float* rstd, const bf16* dy, const bf16* skip, bf16* dx, int columns) {
    backward_any(h, w, rstd, dy, skip, dx, columns);
}
extern "C" __global__ void __launch_bounds__(256)
rms_norm_backward_weight_f32(const float* h, const float* rstd, const float* dy, float* dw, int rows, int columns) {
    backward_weight_any(h, rstd, dy, dw, rows, columns);
}
extern "C" __global__ void __launch_bounds__(256)
rms_norm_backward_weight_bf16(const bf16* h, const float* rstd, const bf16* dy, float* dw, int rows, int columns) {
    backward_weight_any(h, rstd, dy, dw, rows, columns);
}
