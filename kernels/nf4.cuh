// NF4 as bitsandbytes has it: two codes a byte, the first in the high half; a code stands for a value of MAP times its block's
// scale. Blocks of 64 to 4096 elements (a power of two) run over the row-major matrix. Scales are f32, or nested: 8-bit codes into
// a map of 256 values, times an f32 for each 256 blocks, plus an offset. Every operation is rounded once, as on the CPU
// (crates/dora-tensor/src/weight/nf4).
#pragma once

#include "common.cuh"

__constant__ float MAP[16] = {-1.0f, -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f, -0.091050036f, 0.0f,
    0.0795803f, 0.1609302f, 0.2461123f, 0.33791524f, 0.44070983f, 0.562617f, 0.72295684f, 1.0f};

// Scales of the blocks. Plain: absmax (blocks), the rest null. Nested: codes (blocks), absmax (⌈blocks/256⌉), map (256), offset (1).
struct Scales {
    const uint8_t* codes;
    const float *absmax, *map, *offset;

    __device__ __forceinline__ float of(long long block) const {
        if (!codes) return ld(absmax + block);
        return __fadd_rn(__fmul_rn(ld_reused(map + ld(codes + block)), ld_reused(absmax + block / 256)), ld_reused(offset));
    }
};

// MAP in shared memory, a copy for each lane, so that lanes with different codes read different banks at once.
struct Lookup {
    float (&copies)[16][32];

    __device__ __forceinline__ void fill() {
        for (int i = threadIdx.x; i < 16 * 32; i += blockDim.x) copies[i / 32][i % 32] = MAP[i / 32];
        __syncthreads();
    }
    // Value of element i of those packed from the lowest byte of `bits` on. Its code is moved to where the row of a byte offset
    // lies (128 bytes a row), which saves multiplying it.
    __device__ __forceinline__ float value(unsigned bits, int i) const {
        const int at = i / 2 * 8 + (i % 2 == 0 ? 4 : 0);
        const unsigned moved = at < 7 ? bits << (7 - at) : bits >> (at - 7);
        const unsigned offset = (moved & 15 << 7) | threadIdx.x % 32 * 4;
        return *reinterpret_cast<const float*>(reinterpret_cast<const char*>(copies) + offset);
    }
};

// One element on its own, where no 16 bytes of codes can be taken together.
__device__ __forceinline__ float element(const uint8_t* codes, const Scales& scales, int log_block, long long i, const Lookup& lookup) {
    return lookup.value(ld(codes + i / 2), int(i % 2)) * scales.of(i >> log_block);
}
