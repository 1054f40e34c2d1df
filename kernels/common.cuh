// What all kernels share, through nf4.cuh, attention.cuh or low_rank.cuh where some files share more: counted access to global memory, element types, reductions, and the
// asynchronous and tensor-core instructions. nvcc maps them to CUDA; a host compiler to the shim in host/, where every access
// to global memory through `ld`, `st` and their kin is counted. Blocks are one-dimensional; a number of threads is a multiple of 32.
#pragma once

#include <type_traits>
#ifdef __CUDACC__
#include <cstdint>
#define SHIM_COUNT(statement)
#else
#include "host/shim.h"
#define SHIM_COUNT(statement) statement
#endif

// ---- element types: storage only; arithmetic is f32 ----

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __uint_as_float(unsigned(x.bits) << 16); }

template <class T> __device__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }

#ifdef __CUDACC__

__device__ __forceinline__ float to_f32(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
template <> __device__ __forceinline__ f16 from_f32<f16>(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
// Two bf16 in a register, `low` in the lower half.
__device__ __forceinline__ uint32_t pack_bf16x2(float low, float high) {
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

#else

inline float to_f32(f16 x) {
    unsigned sign = unsigned(x.bits >> 15) << 31, exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
    if (exponent == 31) return __uint_as_float(sign | 0x7F800000 | mantissa << 13);
    if (exponent == 0) return __uint_as_float(sign | __float_as_uint(float(mantissa) * 0x1p-24f));
    return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
}
template <> inline bf16 from_f32<bf16>(float x) {
    unsigned bits = __float_as_uint(x);
    if (x != x) return {0x7FFF};
    return {uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}
template <> inline f16 from_f32<f16>(float x) {
    uint16_t sign = uint16_t(__float_as_uint(x) >> 16 & 0x8000);
    float size = fabsf(x);
    if (x != x) return {0x7FFF};
    if (size >= 65520.0f) return {uint16_t(sign | 0x7C00)};
    // Below the normal range the spacing is 2^-24, and f32 rounds a multiple of it exactly so.
    if (size < 0x1p-14f) return {uint16_t(sign | unsigned(nearbyintf(size * 0x1p24f)))};
    unsigned bits = __float_as_uint(size);
    return {uint16_t(sign | ((bits - (112u << 23) + 0xFFF + (bits >> 13 & 1)) >> 13))};
}
inline uint32_t pack_bf16x2(float low, float high) {
    return from_f32<bf16>(low).bits | uint32_t(from_f32<bf16>(high).bits) << 16;
}

#endif

// x as T has it.
template <class T>
__device__ __forceinline__ float rounded(float x) { return to_f32(from_f32<T>(x)); }

// ---- counted access to global memory ----

// Floating-point operations done by this thread, for the table of kernels/README.md.
__device__ __forceinline__ void flops(int number) { SHIM_COUNT(shim::counters.flops += uint64_t(number)); (void)number; }

template <class T>
__device__ __forceinline__ T ld(const T* p) {
    SHIM_COUNT(shim::count_load(p, sizeof(T)));
    return *p;
}
template <class T>
__device__ __forceinline__ void st(T* p, T value) {
    SHIM_COUNT(shim::count_store(p, sizeof(T)));
    *p = value;
}
__device__ __forceinline__ uint4 ld16(const void* p) { return ld(static_cast<const uint4*>(p)); }
__device__ __forceinline__ void st16(void* p, uint4 value) { st(static_cast<uint4*>(p), value); }

// For sums whose order does not matter. No kernel needs one; the shim has it, and a test of its own.
__device__ __forceinline__ void atomic_add(float* p, float value) {
#ifdef __CUDACC__
    atomicAdd(p, value);
#else
    shim::atomic_add(p, value);
#endif
}

// An operand that many blocks read, such as a row of weights: it comes from global memory once and from a cache afterwards, so
// it is counted apart.
template <class T>
__device__ __forceinline__ T ld_reused(const T* p) {
    SHIM_COUNT(shim::count_reused(p, sizeof(T)));
    return *p;
}

// ---- W elements as f32, sixteen bytes at a time where they fill them; W = 1 serves rows that are not aligned to sixteen ----

// Elements in sixteen bytes: 4 of float, 8 of bf16 or f16.
template <class T> constexpr int PER16 = 16 / int(sizeof(T));

template <class T>
__device__ __forceinline__ void unpack(uint4 bits, float* x) {
    const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
    for (int i = 0; i < 4; i++) {
        if constexpr (sizeof(T) == 4) {
            x[i] = __uint_as_float(words[i]);
        } else {
            x[2 * i] = to_f32(T{uint16_t(words[i])});
            x[2 * i + 1] = to_f32(T{uint16_t(words[i] >> 16)});
        }
    }
}

template <class T>
__device__ __forceinline__ uint4 pack(const float* x) {
    unsigned words[4];
    for (int i = 0; i < 4; i++) {
        if constexpr (sizeof(T) == 4) words[i] = __float_as_uint(x[i]);
        else if constexpr (std::is_same_v<T, bf16>) words[i] = pack_bf16x2(x[2 * i], x[2 * i + 1]);
        else words[i] = from_f32<T>(x[2 * i]).bits | unsigned(from_f32<T>(x[2 * i + 1]).bits) << 16;
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

template <int W, class T>
__device__ __forceinline__ void load(const T* p, float (&x)[W]) {
    if constexpr (W % PER16<T> == 0) {
        for (int i = 0; i < W; i += PER16<T>) unpack<T>(ld16(p + i), x + i);
    } else {
        for (int i = 0; i < W; i++) x[i] = to_f32(ld(p + i));
    }
}
template <int W, class T>
__device__ __forceinline__ void load_reused(const T* p, float (&x)[W]) {
    if constexpr (W % PER16<T> == 0) {
        for (int i = 0; i < W; i += PER16<T>) unpack<T>(ld_reused(reinterpret_cast<const uint4*>(p + i)), x + i);
    } else {
        for (int i = 0; i < W; i++) x[i] = to_f32(ld_reused(p + i));
    }
}
// Two or four in one access.
template <int W>
__device__ __forceinline__ void load_narrow(const float* p, float (&x)[W]) {
    static_assert(W == 2 || W == 4);
    if constexpr (W == 4) {
        load_reused(p, x);
    } else {
        const float2 both = ld_reused(reinterpret_cast<const float2*>(p));
        x[0] = both.x;
        x[1] = both.y;
    }
}
template <int W, class T>
__device__ __forceinline__ void store(T* p, const float (&x)[W]) {
    if constexpr (W % PER16<T> == 0) {
        for (int i = 0; i < W; i += PER16<T>) st16(p + i, pack<T>(x + i));
    } else {
        for (int i = 0; i < W; i++) st(p + i, from_f32<T>(x[i]));
    }
}

// ---- n elements that lie one behind another, shared out among all threads of the grid ----

template <int W>
struct Width {
    static constexpr int value = W;
};

// Calls step(first element, Width) for sixteen bytes of T at a time, and element by element for what is left at the end.
template <class T, class Step>
__device__ __forceinline__ void for_elements(long long n, Step step) {
    constexpr int W = PER16<T>;
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x, threads = (long long)gridDim.x * blockDim.x;
    for (long long i = thread; i < n / W; i += threads) step(i * W, Width<W>());
    const long long tail = n / W * W + thread;
    if (tail < n) step(tail, Width<1>());
}

// Row blockIdx.y of `parts` (gridDim.y, columns) = a sum over every gridDim.y-th row, a thread W columns: add(at, row, sum) adds
// what a row gives, whose elements of these columns lie at `at`.
template <int W, class Add>
__device__ __forceinline__ void sum_rows(float* parts, int rows, int columns, Add add) {
    const int i = (blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= columns) return;
    float sum[W] = {};
    for (int row = blockIdx.y; row < rows; row += gridDim.y) add(size_t(row) * columns + i, row, sum);
    store(parts + size_t(blockIdx.y) * columns + i, sum);
}

// ---- shared memory whose size the launch gives, aligned to 16 bytes ----

__device__ __forceinline__ unsigned char* dynamic_smem() {
#ifdef __CUDACC__
    extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
    return dynamic_shared_memory;
#else
    return shim::current->block->dynamic;
#endif
}

// ---- reductions: every thread gets the result; the order of additions is fixed ----

template <class T> // float or double
__device__ __forceinline__ T warp_sum(T x) {
    for (int bits = 16; bits > 0; bits /= 2) x += __shfl_xor_sync(0xFFFFFFFF, x, bits);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
    for (int bits = 16; bits > 0; bits /= 2) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFF, x, bits));
    return x;
}

// One value of each warp through shared memory; `identity` in the lanes beyond the number of warps.
template <class T>
__device__ __forceinline__ T across_warps(T x, T identity) {
    __shared__ T of_warp[32];
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
    __syncthreads(); // an earlier reduction has been read
    if (lane == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    return lane < warps ? of_warp[lane] : identity;
}
template <class T>
__device__ __forceinline__ T block_sum(T x) { return warp_sum(across_warps(warp_sum(x), T(0))); }
__device__ __forceinline__ float block_max(float x) { return warp_max(across_warps(warp_max(x), -INFINITY)); }

// ---- asynchronous copies, matrix loads and products, with the layouts of the PTX ISA (host/warp.h spells them out) ----

#ifdef __CUDACC__

__device__ __forceinline__ unsigned shared_address(const void* p) { return unsigned(__cvta_generic_to_shared(p)); }

// Sixteen bytes to shared memory, the first `bytes` from global memory and the rest zero.
__device__ __forceinline__ void cp_async16(void* shared, const void* global, int bytes = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

#endif
