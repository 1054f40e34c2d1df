// What one system thread needs to run launches: stacks of fibers, shared memory, and the state of the scheduler. Part of runtime.cpp.
#pragma once

#include <csetjmp>
#include <cstdlib>
#include <memory>
#include <signal.h>
#include <sys/mman.h>
#include <vector>

#include "entry.h"
#include "fiber.h"

#ifndef __x86_64__
#error "the host driver switches fibers in x86-64 assembly"
#endif

namespace shim {

constexpr size_t PAGE = 4096, STACK = 64 * 1024, MOST_THREADS = 1024, MOST_SHARED = 256 * 1024;

// Saves the registers that a call keeps on the running stack, leaves its pointer in *from, and goes on where `to` was left.
extern "C" void shim_switch(void** from, void* to);
asm(R"(
.text
.type shim_switch, @function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size shim_switch, .-shim_switch
)");

// Everything that one system thread needs to run launches. Made at its first launch.
struct Machine {
    unsigned char* stacks;    // MOST_THREADS of them, a guard page below each
    unsigned char* shared;    // MOST_SHARED bytes with a guard page behind
    std::vector<Fiber> fibers{MOST_THREADS};
    std::vector<std::vector<AsyncCopy>> copies{MOST_THREADS};
    std::vector<unsigned> ready;
    std::vector<std::unique_ptr<Meeting>> meetings; // all that were ever made
    std::vector<Meeting*> open, unused;
    Block block;
    const Launch* launch;
    Outcome* outcome;
    uint64_t random;
    unsigned at_barrier, done;
    unsigned slow;            // a warp that lags behind the others, so that what they may not yet do shows; or none
    const char* barrier_file;
    int barrier_line;
    void* home;               // stack pointer of the scheduler
    sigjmp_buf escape;

    Machine() {
        stacks = map((STACK + PAGE) * MOST_THREADS);
        for (size_t i = 0; i < MOST_THREADS; i++) mprotect(stacks + i * (STACK + PAGE), PAGE, PROT_NONE);
        shared = map(MOST_SHARED + PAGE);
        mprotect(shared + MOST_SHARED, PAGE, PROT_NONE);
        stack_t alternative;
        sigaltstack(nullptr, &alternative);
        if (alternative.ss_flags & SS_DISABLE) {
            alternative = {map(STACK), 0, STACK};
            sigaltstack(&alternative, nullptr);
        }
    }
    // The signal stack, if made here, stays: the thread may still need it.
    ~Machine() {
        munmap(stacks, (STACK + PAGE) * MOST_THREADS);
        munmap(shared, MOST_SHARED + PAGE);
    }

    static unsigned char* map(size_t bytes) {
        void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) abort();
        return static_cast<unsigned char*>(p);
    }

    uint64_t draw() { // xorshift64*
        random ^= random >> 12, random ^= random << 25, random ^= random >> 27;
        return random * 0x2545F4914F6CDD1Dull;
    }
};

}  // namespace shim
