// CUDA's vocabulary for a host compiler: the words, vector types and intrinsics that the kernels use, with the meanings of the
// CUDA C++ Programming Guide. What crosses threads (barriers, shuffles, mma) is in warp.h.
#pragma once

#include <cstdint>
#include <cstring>
#include <math.h>

#include "fiber.h"

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __constant__ const
// One block runs on one system thread, so a block's static shared memory is the module's thread-local storage. Kernel modules
// hold no other thread-local variable: the runtime poisons all of it when a block begins.
#define __shared__ static thread_local

#define threadIdx (shim::current->index)
#define blockIdx (shim::current->block->index)
#define blockDim (shim::current->block->dim)
#define gridDim (shim::current->block->grid)

struct uint2 { unsigned x, y; };
struct float2 { float x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

template <class To, class From>
inline To shim_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "a cast of bits keeps their number");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline unsigned __float_as_uint(float x) { return shim_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return shim_bits<float>(x); }

// One rounding each, which nvcc does not contract.
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __expf(float x) { return expf(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }

template <class T>
inline T min(T a, T b) { return b < a ? b : a; }
template <class T>
inline T max(T a, T b) { return a < b ? b : a; }
