// Cross-entropy over a chunk of logits z (rows, V) of T: loss_t = log Σ_v e^{z_tv} − z_{t,target}, in f32, overwritten; 0 where the
// target is −100. A target that is no token gives NaN.
//
//   cross_entropy         also overwrites z by its gradient, (softmax(z) − onehot(target)) · scale, scale = 1/denominator.
//   cross_entropy_losses  leaves z as it is.
//
// A block a row. Largest logit and sum of exponentials in one pass (Milakov and Gimelshein, 2018), each thread for its own
// chunks, then across the block in a fixed order. The gradient takes a second pass over the same chunks.
// Traffic: 1 element for losses; 3 for gradients, the least being 2: no processor holds a row of 128,256 on chip, but the second
// reading comes from the L2 cache (132 rows in work · 256 KB = 34 MB of bf16). 5 FLOPs and 2 exponentials an element.
#include "common.cuh"

constexpr int IGNORE = -100;

// Σ e^(x − largest) of the elements seen, beside the largest of them.
struct SumExp {
    float largest = -3.4e38f, sum = 0.0f;

    template <int W>
    __device__ __forceinline__ void add(const float (&x)[W]) {
        float top = largest;
#pragma unroll
        for (int i = 0; i < W; i++) top = fmaxf(top, x[i]);
        sum *= __expf(largest - top);
        largest = top;
#pragma unroll
        for (int i = 0; i < W; i++) sum += __expf(x[i] - top);
        flops(4 * W + 2);
    }
};

// Calls f(width, offset) for this thread's pieces of a row: 16 bytes each between its first and last address that is a multiple
// of 16, and single elements outside.
template <class T, class F>
__device__ __forceinline__ void pieces(const T* row, int vocab, F f) {
    constexpr int W = PER16<T>;
    const int before = min(vocab, int((16 - reinterpret_cast<uintptr_t>(row) % 16) % 16 / sizeof(T)));
    const int after = before + (vocab - before) / W * W, outside = before + vocab - after, i = threadIdx.x;
    if (i < outside) f(Width<1>(), i < before ? i : after + i - before);
    for (int at = before + i * W; at < after; at += blockDim.x * W) f(Width<W>(), at);
}

// The block's largest logit and the sum; every thread receives them.
template <class T>
__device__ __forceinline__ SumExp statistics(const T* row, int vocab) {
    SumExp all;
    pieces(row, vocab, [&](auto width, int at) {
        float x[width.value];
        load(row + at, x);
        all.add(x);
    });
    const float largest = block_max(all.largest);
    return {largest, block_sum(all.sum * __expf(all.largest - largest))};
}

__device__ __forceinline__ bool is_token(int target, int vocab) { return 0 <= target && target < vocab; }

template <class T>
__device__ void losses(float* loss, const T* logits, const int* targets, int vocab) {
    const T* row = logits + size_t(blockIdx.x) * vocab;
    const int target = ld_reused(targets + blockIdx.x);
    SumExp all = {0.0f, 1.0f};
    if (target != IGNORE) all = statistics(row, vocab);
    if (threadIdx.x != 0) return;
    const float own = is_token(target, vocab) ? to_f32(ld_reused(row + target)) : target == IGNORE ? 0.0f : NAN;
    st(loss + blockIdx.x, all.largest - own + logf(all.sum));
}

template <class T>
__device__ void with_gradient(float* loss, T* logits, const int* targets, float scale, int vocab) {
    T* row = logits + size_t(blockIdx.x) * vocab;
    const int target = ld_reused(targets + blockIdx.x);
    if (target == IGNORE) {
        pieces(row, vocab, [&](auto width, int at) {
            const float none[width.value] = {};
            store(row + at, none);
        });
        if (threadIdx.x == 0) st(loss + blockIdx.x, 0.0f);
        return;
    }
    const float own = is_token(target, vocab) ? to_f32(ld_reused(row + target)) : NAN;
    const SumExp all = statistics(row, vocab);
    const float by = (is_token(target, vocab) ? scale : NAN) / all.sum;
    pieces(row, vocab, [&](auto width, int at) {
        float x[width.value];
        load_reused(row + at, x);
#pragma unroll
        for (int i = 0; i < width.value; i++) x[i] = __expf(x[i] - all.largest) * by;
        store(row + at, x);
        flops(3 * width.value);
    });
    __syncthreads();
    if (threadIdx.x != 0) return;
    st(loss + blockIdx.x, all.largest - own + logf(all.sum));
    if (is_token(target, vocab)) st(row + target, from_f32<T>(__expf(own - all.largest) * by - scale));
}

extern "C" __global__ void __launch_bounds__(1024) cross_entropy_f32(float* loss, float* logits, const int* targets, float scale, int vocab) {
    with_gradient(loss, logits, targets, scale, vocab);
}
extern "C" __global__ void __launch_bounds__(1024) cross_entropy_bf16(float* loss, bf16* logits, const int* targets, float scale, int vocab) {
    with_gradient(loss, logits, targets, scale, vocab);
}
extern "C" __global__ void __launch_bounds__(1024) cross_entropy_losses_f32(float* loss, const float* logits, const int* targets, int vocab) {
    losses(loss, logits, targets, vocab);
}
extern "C" __global__ void __launch_bounds__(1024) cross_entropy_losses_bf16(float* loss, const bf16* logits, const int* targets, int vocab) {
    losses(loss, logits, targets, vocab);
}
