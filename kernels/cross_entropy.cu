// Cross-entropy over a chunk of logits z (rows, V) of T: loss_t = log Σ_v e^{z_tv} − z_{t,target}, in f32, overwritten; 0 where the
// target is −100. A target that is no token gives NaN.
//
//   cross_entropy         also overwrites z by its gradient, (softmax(z) − onehot(target)) · scale, scale = 1/denominator.
//   cross_entropy_losses  leaves z as it is.
//
// A block a row. Largest logit and sum of exponentials in one pass (Milakov and Gimelshein, 2018), each thread for its own
// chunks, two at a time, then across the block in a fixed order. The gradient takes a second pass over the same chunks.
// Traffic: 1 element for losses; 3 for gradients, the least being 2, of which the second reading comes from the L2 cache where that
// holds the rows in work. In bf16 a block of 1,024 threads has more than 32 registers a thread (build-kernels checks it), and so a
// multiprocessor to itself: 132 rows of 256 KB (V = 128,256) on an H100, 34 of its 50 MB; 28 of 40 on an A100, 33 of 72 on an RTX 4090. An
// RTX 3090's 6 MB do not hold them, nor do the first two in f32: there it is 3 elements. 5 FLOPs and 2 exponentials an element.
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

// N pieces of W elements each, and where they begin.
template <int N, int W>
struct Pieces {
    static constexpr int count = N, width = W;
    int at[N];

    template <bool AGAIN, class T>
    __device__ __forceinline__ void load_from(const T* row, float (&x)[N][W]) const {
#pragma unroll
        for (int k = 0; k < N; k++) AGAIN ? load_reused(row + at[k], x[k]) : load(row + at[k], x[k]);
    }
};

// Calls f(Pieces) for this thread's part of a row: 16 bytes each between its first and last address that is a multiple of 16, two
// at a time so that their loads are under way together, and single elements outside.
template <class T, class F>
__device__ __forceinline__ void pieces(const T* row, int vocab, F f) {
    constexpr int W = PER16<T>;
    const int before = min(vocab, int((16 - reinterpret_cast<uintptr_t>(row) % 16) % 16 / sizeof(T)));
    const int after = before + (vocab - before) / W * W, outside = before + vocab - after, i = threadIdx.x;
    if (i < outside) f(Pieces<1, 1>{{i < before ? i : after + i - before}});
    int at = before + i * W;
    const int step = blockDim.x * W;
    for (; at + step < after; at += 2 * step) f(Pieces<2, W>{{at, at + step}});
    if (at < after) f(Pieces<1, W>{{at}});
}

// The block's largest logit and the sum; every thread receives them.
template <class T>
__device__ __forceinline__ SumExp statistics(const T* row, int vocab) {
    SumExp all;
    pieces(row, vocab, [&](auto some) {
        float x[some.count][some.width];
        some.template load_from<false>(row, x);
#pragma unroll
        for (int k = 0; k < some.count; k++) all.add(x[k]);
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
        pieces(row, vocab, [&](auto some) {
            const float none[some.width] = {};
            for (int k = 0; k < some.count; k++) store(row + some.at[k], none);
        });
        if (threadIdx.x == 0) st(loss + blockIdx.x, 0.0f);
        return;
    }
    const float own = is_token(target, vocab) ? to_f32(ld_reused(row + target)) : NAN;
    const SumExp all = statistics(row, vocab);
    const float by = (is_token(target, vocab) ? scale : NAN) / all.sum;
    pieces(row, vocab, [&](auto some) {
        float x[some.count][some.width];
        some.template load_from<true>(row, x);
#pragma unroll
        for (int k = 0; k < some.count; k++) {
#pragma unroll
            for (int i = 0; i < some.width; i++) x[k][i] = __expf(x[k][i] - all.largest) * by;
            store(row + some.at[k], x[k]);
        }
        flops(3 * some.count * some.width);
    });
    __syncthreads();
    if (threadIdx.x != 0) return;
    st(loss + blockIdx.x, all.largest - own + logf(all.sum));
    if (is_token(target, vocab)) st(row + target, from_f32<T>(__expf(own - all.largest) * by - scale));
}

extern "C" __global__ void __launch_bounds__(1024) cross_entropy_f32(float* loss, float* logits, const int* targets, float scale, int vocab) {
    with_gradient(loss, logits, targets, scale, vocab);
}
extern "C" __global__ void __launch_bounds__(1024, 1) cross_entropy_bf16(float* loss, bf16* logits, const int* targets, float scale, int vocab) {
    with_gradient(loss, logits, targets, scale, vocab);
}
extern "C" __global__ void __launch_bounds__(1024) cross_entropy_losses_f32(float* loss, const float* logits, const int* targets, int vocab) {
    losses(loss, logits, targets, vocab);
}
extern "C" __global__ void __launch_bounds__(1024) cross_entropy_losses_bf16(float* loss, const bf16* logits, const int* targets, int vocab) {
    losses(loss, logits, targets, vocab);
}
