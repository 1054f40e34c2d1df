// For the shim's own tests, with nothing wrong in it: one 16x8 product of bf16 matrices, D = A (16, 16) · B (16, 8), with fragments
// filled element by element as the PTX ISA lays them out, and with asynchronous copies and matrix loads.
#include "../../common.cuh"

__device__ void put(float* d, const float (&c)[4]) {
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    for (int i = 0; i < 4; i++) st(d + (g + 8 * (i / 2)) * 8 + 2 * t + i % 2, c[i]);
}

// A row-major; B row-major.
extern "C" __global__ void layouts_by_hand(const bf16* a, const bf16* b, float* d) {
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    auto two = [](bf16 low, bf16 high) { return pack_bf16x2(to_f32(low), to_f32(high)); };
    uint32_t x[4], y[2];
    for (int i = 0; i < 4; i++) {
        const bf16* p = a + (g + 8 * (i % 2)) * 16 + 2 * t + 8 * (i / 2);
        x[i] = two(ld(p), ld(p + 1));
    }
    for (int i = 0; i < 2; i++) {
        const bf16* p = b + (2 * t + 8 * i) * 8 + g;
        y[i] = two(ld(p), ld(p + 8));
    }
    float c[4] = {};
    mma_m16n8k16_bf16(c, x, y, c);
    put(d, c);
}

// A row-major; of B two copies side by side, so that rows have 16 elements and one load gives both halves of each.
extern "C" __global__ void layouts_by_loads(const bf16* a, const bf16* b, float* d) {
    bf16* tile_a = reinterpret_cast<bf16*>(dynamic_smem());
    bf16* tile_b = tile_a + 16 * 16;
    const int lane = threadIdx.x, row = lane % 16, half = lane / 16;
    cp_async16(tile_a + row * 16 + 8 * half, a + row * 16 + 8 * half);
    cp_async_commit();
    cp_async16(tile_b + row * 16 + 8 * half, b + row * 8, half == 0 ? 16 : 0);
    cp_async_commit();
    cp_async_wait<1>();
    __syncwarp();
    uint32_t x[4], y[4];
    ldmatrix_x4(x, tile_a + row * 16 + 8 * half);
    cp_async_wait<0>();
    __syncwarp();
    ldmatrix_x4_trans(y, tile_b + row * 16 + 8 * half);
    float c[4] = {};
    const uint32_t first[2] = {y[0], y[1]}, second[2] = {y[2], y[3]};
    mma_m16n8k16_bf16(c, x, first, c);
    mma_m16n8k16_bf16(c, x, second, c); // zeros
    put(d, c);
}
