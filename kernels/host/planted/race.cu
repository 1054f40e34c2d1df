// Planted for the shim's own tests: neighbours' values are read from shared memory with no barrier between writing and reading.
#include "../../common.cuh"

extern "C" __global__ void planted_race(const float* x, float* y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = ld(x + threadIdx.x);
    st(y + threadIdx.x, tile[(threadIdx.x + 1) % 64]);
}

// The same between lanes of a warp with no __syncwarp, through dynamic shared memory.
extern "C" __global__ void planted_warp_race(const float* x, float* y) {
    float* tile = reinterpret_cast<float*>(dynamic_smem());
    tile[threadIdx.x] = ld(x + threadIdx.x);
    st(y + threadIdx.x, tile[threadIdx.x ^ 1]);
}

// A tile that asynchronous copies bring, read after the barrier but with no wait.
extern "C" __global__ void planted_unwaited_copy(const float* x, float* y) {
    float* tile = reinterpret_cast<float*>(dynamic_smem());
    if (threadIdx.x < 16) cp_async16(tile + 4 * threadIdx.x, x + 4 * threadIdx.x);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    st(y + threadIdx.x, tile[63 - threadIdx.x]);
}

// Right: additions of all threads to one number, which would be lost without being atomic.
extern "C" __global__ void planted_additions(const float* x, float* sum) { atomic_add(sum, ld(x + threadIdx.x)); }

// The same without, each between two meetings of the warp.
extern "C" __global__ void planted_lost_additions(const float* x, float* sum) {
    const float before = ld(sum);
    __syncwarp();
    st(sum, before + ld(x + threadIdx.x));
}
