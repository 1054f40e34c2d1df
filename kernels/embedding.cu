// Rows of a table by number, and their gradient.
//
//   embedding_from_*: y[t] = table[ids[t]], table (vocab, columns) in any type, y (n, columns) of T, overwritten.
//   embedding_backward: dtable[ids[k]] += Σ dy[order[j]] over starts[k] <= j < starts[k + 1]: for each of `count` distinct ids the
//     rows of dy that it was read for, in their order, so that sums repeat to the bit. dtable (vocab, columns) is f32.
//   scatter_rows: y[ids[t]] = x[t] for distinct ids; other rows keep what they hold.
//
// An id beyond the table reads NaN and adds or writes nothing. Grid: a block a row of y, of x, or a distinct id. Traffic: forward and scatter an element each way; backward an element of dy a
// token, and 8 bytes of dtable a distinct id. Bound by bandwidth.
#include "common.cuh"

template <int W, class From, class To>
__device__ __forceinline__ void copy_row(const From* from, To* to, int columns) {
    for (int i = threadIdx.x * W; i < columns; i += blockDim.x * W) {
        float v[W];
        load(from + i, v);
        store(to + i, v);
    }
}

// The step is the one of sixteen bytes of bf16 on either side.
template <class From, class To>
__device__ __forceinline__ void copy_row(const From* from, To* to, int columns) {
    columns % 8 == 0 ? copy_row<8>(from, to, columns) : copy_row<1>(from, to, columns);
}

template <class From, class To>
__device__ __forceinline__ void gather(const unsigned* ids, const From* table, To* y, int vocab, int columns) {
    const unsigned id = ld_reused(ids + blockIdx.x);
    y += size_t(blockIdx.x) * columns;
    if (id < unsigned(vocab)) {
        copy_row(table + size_t(id) * columns, y, columns);
    } else {
        for (int i = threadIdx.x; i < columns; i += blockDim.x) st(y + i, from_f32<To>(nanf("")));
    }
}
template <class T>
__device__ __forceinline__ void scatter(const unsigned* ids, const T* x, T* y, int rows, int columns) {
    const unsigned id = ld_reused(ids + blockIdx.x);
    if (id < unsigned(rows)) copy_row(x + size_t(blockIdx.x) * columns, y + size_t(id) * columns, columns);
}

template <int W, class T>
__device__ __forceinline__ void add_rows(const unsigned* ids, const unsigned* starts, const unsigned* order, const T* dy,
                                         float* dtable, int vocab, int columns) {
    const unsigned first = ld_reused(starts + blockIdx.x), end = ld_reused(starts + blockIdx.x + 1);
    const unsigned id = ld_reused(ids + blockIdx.x);
    if (id >= unsigned(vocab)) return;
    float* row = dtable + size_t(id) * columns;
    for (int i = threadIdx.x * W; i < columns; i += blockDim.x * W) {
        float sum[W];
        load(row + i, sum);
        for (unsigned j = first; j < end; j++) {
            float v[W];
            load(dy + size_t(ld_reused(order + j)) * columns + i, v);
            for (int l = 0; l < W; l++) sum[l] += v[l];
            flops(W);
        }
        store(row + i, sum);
    }
}

template <class T>
__device__ __forceinline__ void backward(const unsigned* ids, const unsigned* starts, const unsigned* order, const T* dy,
                                         float* dtable, int vocab, int columns) {
    columns % PER16<T> == 0 ? add_rows<PER16<T>>(ids, starts, order, dy, dtable, vocab, columns)
                            : add_rows<1>(ids, starts, order, dy, dtable, vocab, columns);
}

extern "C" __global__ void embedding_from_f32_f32(const unsigned* ids, const float* table, float* y, int vocab, int columns) {
    gather(ids, table, y, vocab, columns);
}
extern "C" __global__ void embedding_from_bf16_f32(const unsigned* ids, const bf16* table, float* y, int vocab, int columns) {
    gather(ids, table, y, vocab, columns);
}
extern "C" __global__ void embedding_from_f16_f32(const unsigned* ids, const f16* table, float* y, int vocab, int columns) {
    gather(ids, table, y, vocab, columns);
}
extern "C" __global__ void embedding_from_f32_bf16(const unsigned* ids, const float* table, bf16* y, int vocab, int columns) {
    gather(ids, table, y, vocab, columns);
}
extern "C" __global__ void embedding_from_bf16_bf16(const unsigned* ids, const bf16* table, bf16* y, int vocab, int columns) {
    gather(ids, table, y, vocab, columns);
}
extern "C" __global__ void embedding_from_f16_bf16(const unsigned* ids, const f16* table, bf16* y, int vocab, int columns) {
    gather(ids, table, y, vocab, columns);
}
extern "C" __global__ void embedding_backward_f32(const unsigned* ids, const unsigned* starts, const unsigned* order, const float* dy,
                                                  float* dtable, int vocab, int columns) {
    backward(ids, starts, order, dy, dtable, vocab, columns);
}
extern "C" __global__ void embedding_backward_bf16(const unsigned* ids, const unsigned* starts, const unsigned* order, const bf16* dy,
                                                   float* dtable, int vocab, int columns) {
    backward(ids, starts, order, dy, dtable, vocab, columns);
}
extern "C" __global__ void scatter_rows_f32(const unsigned* ids, const float* x, float* y, int rows, int columns) {
    scatter(ids, x, y, rows, columns);
}
extern "C" __global__ void scatter_rows_bf16(const unsigned* ids, const bf16* x, bf16* y, int rows, int columns) {
    scatter(ids, x, y, rows, columns);
}
