// SwiGLU (Shazeer, 2020): y = silu(gate) ⊙ up, silu(g) = g · σ(g), σ(g) = 1/(1 + e^−g). Backward computes σ again:
// dgate = dy ⊙ up ⊙ σ · (1 + g · (1 − σ)), dup = dy ⊙ silu(g).
//
// All: n elements of T; outputs are overwritten; dgate may be gate, and dup may be dy or up. Arithmetic is f32, rounded once.
// Grid: sixteen bytes a thread and step. Traffic in elements: forward 3, backward 5. Bound by bandwidth: an exponential and
// a division an element stay below it.
#include "common.cuh"

__device__ __forceinline__ float sigmoid(float g) { return 1.0f / (1.0f + expf(-g)); }

template <class T>
__device__ __forceinline__ void forward(const T* gate, const T* up, T* y, long long n) {
    for_elements<T>(n, [&](long long i, auto width) {
        constexpr int W = decltype(width)::value;
        float g[W], u[W];
        load(gate + i, g);
        load(up + i, u);
        for (int j = 0; j < W; j++) u[j] *= g[j] * sigmoid(g[j]);
        store(y + i, u);
        flops(5 * W);
    });
}

template <class T>
__device__ __forceinline__ void backward(const T* gate, const T* up, const T* dy, T* dgate, T* dup, long long n) {
    for_elements<T>(n, [&](long long i, auto width) {
        constexpr int W = decltype(width)::value;
        float g[W], u[W], d[W];
        load(gate + i, g);
        load(up + i, u);
        load(dy + i, d);
        for (int j = 0; j < W; j++) {
            const float s = sigmoid(g[j]), silu = g[j] * s;
            u[j] = d[j] * u[j] * (s + silu * (1.0f - s));
            d[j] *= silu;
        }
        store(dgate + i, u);
        store(dup + i, d);
        flops(10 * W);
    });
}

extern "C" __global__ void swiglu_forward_f32(const float* gate, const float* up, float* y, long long n) {
    forward(gate, up, y, n);
}
extern "C" __global__ void swiglu_forward_bf16(const bf16* gate, const bf16* up, bf16* y, long long n) {
    forward(gate, up, y, n);
}
extern "C" __global__ void swiglu_backward_f32(const float* gate, const float* up, const float* dy, float* dgate, float* dup,
                                               long long n) {
    backward(gate, up, dy, dgate, dup, n);
}
extern "C" __global__ void swiglu_backward_bf16(const bf16* gate, const bf16* up, const bf16* dy, bf16* dgate, bf16* dup,
                                                long long n) {
    backward(gate, up, dy, dgate, dup, n);
}
