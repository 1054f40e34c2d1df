// Planted for the shim's own tests: accesses outside of a buffer, beyond shared memory, and across alignment.
#include "../../common.cuh"

// Writes y[0..=n], one more than there is when y has n elements.
extern "C" __global__ void planted_write_behind(float* y, int n) {
    if (int(threadIdx.x) <= n) st(y + threadIdx.x, 1.0f);
}

// Writes the element in front of y.
extern "C" __global__ void planted_write_before(float* y) {
    if (threadIdx.x == 0) st(y - 1, 1.0f);
}

// Reads far behind y.
extern "C" __global__ void planted_read_behind(float* y, int n) { st(y + threadIdx.x, ld(y + threadIdx.x + n)); }

// Puts y[n], which is one behind y, into y[0].
extern "C" __global__ void planted_read_one_behind(float* y, int n) {
    if (threadIdx.x == 0) st(y, ld(y + n));
}

// Writes behind dynamic shared memory of n floats.
extern "C" __global__ void planted_shared_behind(float* y, int n) {
    reinterpret_cast<float*>(dynamic_smem())[n + threadIdx.x] = 1.0f;
    st(y + threadIdx.x, 1.0f);
}

// Sixteen bytes at an address that is a multiple of four only.
extern "C" __global__ void planted_misaligned(float* y) { st16(y + 1, make_uint4(0, 0, 0, 0)); }
