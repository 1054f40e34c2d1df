// Barriers, warp exchanges and the asynchronous and tensor-core instructions, on fibers. Layouts follow the PTX ISA: ldmatrix
// (section "Warp-level matrix load"), mma.m16n8k16 with bf16 operands and f32 accumulators, cp.async.
#pragma once

#include "cuda.h"

#define SHIM_AT const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(SHIM_AT) { shim::barrier(file, line); }

inline void __syncwarp(unsigned mask = 0xFFFFFFFF, SHIM_AT) {
    shim::leave(shim::meet(mask, "__syncwarp", file, line, nullptr, 0, nullptr));
}

namespace shim {

// What the thread in `source` brought; `source` has to take part.
template <class T>
T exchange(unsigned mask, T value, unsigned source, const char* what, const char* file, int line) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    Meeting* meeting = meet(mask, what, file, line, &value, sizeof value, nullptr);
    if (!(mask >> source & 1)) fail("%s at %s:%d reads lane %u, which mask %08x leaves out", what, file, line, source, mask);
    memcpy(&value, meeting->in[source], sizeof value);
    leave(meeting);
    return value;
}

inline unsigned vote(unsigned mask, int predicate, const char* what, const char* file, int line) {
    Meeting* meeting = meet(mask, what, file, line, &predicate, sizeof predicate, nullptr);
    unsigned votes = 0;
    for (unsigned i = 0; i < 32; i++) {
        int other = 0;
        if (mask >> i & 1) memcpy(&other, meeting->in[i], sizeof other);
        votes |= unsigned(other != 0) << i;
    }
    leave(meeting);
    return votes;
}

inline bool in_shared(const void* address, size_t bytes) {
    const unsigned char* p = static_cast<const unsigned char*>(address);
    const Block& block = *current->block;
    return (p >= block.dynamic && p + bytes <= block.dynamic + block.dynamic_bytes) ||
           (p >= block.fixed && p + bytes <= block.fixed + block.fixed_bytes);
}

inline void check_shared16(const void* address, const char* what) {
    if (!in_shared(address, 16)) fail("%s: address outside shared memory", what);
    if (reinterpret_cast<uintptr_t>(address) % 16 != 0) fail("%s: address is not a multiple of 16 bytes", what);
}

}  // namespace shim

template <class T>
T __shfl_sync(unsigned mask, T value, int source, SHIM_AT) {
    return shim::exchange(mask, value, unsigned(source) % 32, "__shfl_sync", file, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, SHIM_AT) {
    return shim::exchange(mask, value, shim::lane() ^ unsigned(bits), "__shfl_xor_sync", file, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, SHIM_AT) {
    unsigned from = shim::lane() + delta;
    return shim::exchange(mask, value, from < 32 ? from : shim::lane(), "__shfl_down_sync", file, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, SHIM_AT) {
    unsigned from = shim::lane() - delta;
    return shim::exchange(mask, value, from < 32 ? from : shim::lane(), "__shfl_up_sync", file, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SHIM_AT) {
    return shim::vote(mask, predicate, "__ballot_sync", file, line);
}
inline int __any_sync(unsigned mask, int predicate, SHIM_AT) {
    return shim::vote(mask, predicate, "__any_sync", file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SHIM_AT) {
    return shim::vote(mask, predicate, "__all_sync", file, line) == mask;
}

namespace shim {

// Four 8x8 matrices of 16-bit elements; lane 8i + r brings the address of row r of matrix i. Lane l takes of every matrix the
// elements (l/4, 2(l%4)) and (l/4, 2(l%4) + 1), or of its transpose.
inline void load_matrices(uint32_t (&r)[4], const void* row, bool transposed, const char* what, const char* file, int line) {
    check_shared16(row, what);
    Meeting* meeting = meet(0xFFFFFFFF, what, file, line, row, 16, nullptr);
    auto element = [&](unsigned matrix, unsigned row, unsigned column) {
        uint16_t bits;
        memcpy(&bits, meeting->in[8 * matrix + row] + 2 * column, 2);
        return uint32_t(bits);
    };
    unsigned outer = lane() / 4, inner = 2 * (lane() % 4);
    for (unsigned i = 0; i < 4; i++) {
        r[i] = transposed ? element(i, inner, outer) | element(i, inner + 1, outer) << 16
                          : element(i, outer, inner) | element(i, outer, inner + 1) << 16;
    }
    leave(meeting);
}

// The operands of one lane, in the order of the instruction.
struct MmaOperands {
    uint32_t a[4], b[2];
    float c[4];
};
static_assert(sizeof(MmaOperands) <= sizeof(Meeting::in[0]), "operands fit a meeting");

// D (16, 8) = A (16, 16) · B (16, 8) + C. With g = lane/4 and t = lane%4, register i of A holds row g + 8(i%2), columns
// 2t + 8(i/2) and the next; register i of B rows 2t + 8i and the next, column g; element i of C and D row g + 8(i/2),
// column 2t + i%2.
inline void multiply_matrices(Meeting& meeting) {
    float a[16][16], b[8][16];
    auto put = [](float* two, uint32_t bits) {
        two[0] = __uint_as_float(bits << 16);
        two[1] = __uint_as_float(bits & 0xFFFF0000);
    };
    MmaOperands lanes[32];
    for (unsigned l = 0; l < 32; l++) {
        memcpy(&lanes[l], meeting.in[l], sizeof lanes[l]);
        unsigned g = l / 4, t = l % 4;
        for (unsigned i = 0; i < 4; i++) put(&a[g + 8 * (i % 2)][2 * t + 8 * (i / 2)], lanes[l].a[i]);
        for (unsigned i = 0; i < 2; i++) put(&b[g][2 * t + 8 * i], lanes[l].b[i]);
    }
    for (unsigned l = 0; l < 32; l++) {
        float d[4];
        for (unsigned i = 0; i < 4; i++) {
            const float *x = a[l / 4 + 8 * (i / 2)], *y = b[2 * (l % 4) + i % 2];
            float sum = lanes[l].c[i];
            for (int k = 0; k < 16; k++) sum += x[k] * y[k];
            d[i] = sum;
        }
        memcpy(meeting.out[l], d, sizeof d);
    }
}

}  // namespace shim

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, SHIM_AT) {
    shim::load_matrices(r, row, false, "ldmatrix_x4", file, line);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, SHIM_AT) {
    shim::load_matrices(r, row, true, "ldmatrix_x4_trans", file, line);
}
inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4], SHIM_AT) {
    shim::MmaOperands operands;
    memcpy(operands.a, a, sizeof a);
    memcpy(operands.b, b, sizeof b);
    memcpy(operands.c, c, sizeof c);
    shim::Meeting* meeting =
        shim::meet(0xFFFFFFFF, "mma", file, line, &operands, sizeof operands, shim::multiply_matrices);
    memcpy(d, meeting->out[shim::lane()], sizeof d);
    shim::leave(meeting);
    shim::counters.flops += 2 * 16 * 8 * 16 / 32;
}

// Copies the first `bytes` of 16 and clears the rest. Shared memory is poisoned until the thread has waited.
inline void cp_async16(void* shared, const void* global, int bytes = 16) {
    shim::check_shared16(shared, "cp_async16");
    if (reinterpret_cast<uintptr_t>(global) % 16 != 0) shim::fail("cp_async16: source is not a multiple of 16 bytes");
    memset(shared, 0xFF, 16);
    shim::current->copies->push_back({shared, global, bytes, shim::current->copy_group});
    shim::counters.bytes_loaded += uint64_t(bytes);
    shim::counters.loads += 1;
}
inline void cp_async_commit() { shim::current->copy_group += 1; }

// Waits until at most the N youngest groups are under way.
template <int N>
void cp_async_wait() {
    auto& copies = *shim::current->copies;
    size_t kept = 0;
    for (shim::AsyncCopy copy : copies) {
        if (copy.group >= shim::current->copy_group - N) {
            copies[kept++] = copy;
            continue;
        }
        memcpy(copy.to, copy.from, size_t(copy.bytes));
        memset(static_cast<char*>(copy.to) + copy.bytes, 0, size_t(16 - copy.bytes));
    }
    copies.resize(kept);
}
