// Planted for the shim's own tests: barriers and warp exchanges that some threads never reach.
#include "../../common.cuh"

// The last thread leaves before the barrier.
extern "C" __global__ void planted_missing_barrier(float* y, int n) {
    if (int(threadIdx.x) >= n) return;
    __syncthreads();
    st(y + threadIdx.x, 1.0f);
}

// Each half of the block has a barrier of its own.
extern "C" __global__ void planted_divergent_barrier(float* y, int n) {
    if (int(threadIdx.x) < n) {
        __syncthreads();
        st(y + threadIdx.x, 1.0f);
    } else {
        __syncthreads();
        st(y + threadIdx.x, 2.0f);
    }
}

// Half a warp shuffles under the mask of a whole one.
extern "C" __global__ void planted_half_shuffle(float* y, int n) {
    if (int(threadIdx.x) < n) st(y + threadIdx.x, warp_sum(1.0f));
}
