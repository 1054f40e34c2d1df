// What a kernel compiled for the host sees of the runtime: the thread it runs as, its block, the counters, and how to wait.
// One block at a time runs on a system thread. Each of its CUDA threads is a fiber; a fiber runs until it waits, and the next
// one is drawn at random from those that can run, so every launch seed is another legal order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };

namespace shim {

struct Block;

// A 16-byte copy from global to shared memory that has been asked for and not waited for.
struct AsyncCopy {
    void* to;
    const void* from;
    int bytes; // of 16; the rest becomes zero
    int group;
};

struct Fiber {
    void* stack_pointer;
    uint3 index;
    unsigned id;         // of the thread within its block
    Block* block;
    const char* waits;   // what for, or null
    int line;            // where it waits
    bool done;
    int copy_group;      // groups committed so far
    std::vector<AsyncCopy>* copies;
};

struct Block {
    uint3 index;
    dim3 dim, grid;
    unsigned threads;
    unsigned char* dynamic; // dynamic shared memory and its size
    size_t dynamic_bytes;
    unsigned char* fixed;   // static shared memory of the module and its size
    size_t fixed_bytes;
};

// Traffic with global memory and arithmetic, as the kernels report it.
struct Counters {
    uint64_t bytes_loaded, bytes_reused, bytes_stored, loads, stores, atomics, flops;
};

// A meeting of the threads of one warp that a mask names. Each brings up to 48 bytes and takes up to 16.
struct Meeting {
    uint32_t mask, arrived, left;
    const char* what;
    const char* file;
    int line;
    unsigned warp;
    alignas(16) unsigned char in[32][48];
    alignas(16) unsigned char out[32][16];
};

// initial-exec: a load relative to the thread pointer, with no call.
extern thread_local Fiber* current __attribute__((tls_model("initial-exec")));
extern thread_local Counters counters __attribute__((tls_model("initial-exec")));

// Ends the launch with an error that names kernel, block and thread.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Waits until every thread of the block is at this barrier.
void barrier(const char* file, int line);

// Brings this thread's bytes to a meeting and waits until every thread of the mask is there. The last one to come runs
// `complete` first. Each thread then reads what it needs and leaves.
Meeting* meet(uint32_t mask, const char* what, const char* file, int line, const void* value, size_t bytes,
              void (*complete)(Meeting&));
void leave(Meeting* meeting);

inline unsigned lane() { return current->id % 32; }

inline void check_aligned(const void* p, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(p) % bytes != 0) fail("access of %zu bytes at an address that is not a multiple of it", bytes);
}
inline void count_load(const void* p, size_t bytes) {
    check_aligned(p, bytes);
    counters.bytes_loaded += bytes;
    counters.loads += 1;
}
inline void count_reused(const void* p, size_t bytes) {
    check_aligned(p, bytes);
    counters.bytes_reused += bytes;
    counters.loads += 1;
}
inline void count_store(const void* p, size_t bytes) {
    check_aligned(p, bytes);
    counters.bytes_stored += bytes;
    counters.stores += 1;
}

// Counts as 4 bytes each way. Launches on other system threads may add to the same element.
inline void atomic_add(float* p, float value) {
    check_aligned(p, sizeof *p);
    counters.bytes_loaded += sizeof *p;
    counters.bytes_stored += sizeof *p;
    counters.atomics += 1;
    float before, after;
    __atomic_load(p, &before, __ATOMIC_RELAXED);
    do {
        after = before + value;
    } while (!__atomic_compare_exchange(p, &before, &after, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

}  // namespace shim
