// The scheduler: runs the blocks of a launch one after another, in an order drawn from the seed, each as a set of fibers.
// Shared memory is 0xFF, which is NaN in every float format, when a block begins. Ends with an error when threads wait for ever,
// meet at different places, or touch memory outside every buffer.
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>

#include "machine.h"

namespace shim {

thread_local Fiber* current;
thread_local Counters counters;

namespace {

thread_local std::unique_ptr<Machine> machine;
thread_local volatile bool running;

void* take_ready() {
    Machine& m = *machine;
    size_t i = 0;
    for (int tries = 0; tries < 8; tries++) {
        i = size_t((m.draw() >> 32) * m.ready.size() >> 32);
        if (m.ready[i] / 32 != m.slow) break;
    }
    unsigned id = m.ready[i];
    m.ready[i] = m.ready.back();
    m.ready.pop_back();
    current = &m.fibers[id];
    return current->stack_pointer;
}

// What every waiting thread waits for, by kind: "17 of 64 threads wait at __syncthreads (x.cu:12); ...".
[[noreturn]] void stuck() {
    Machine& m = *machine;
    std::string text;
    std::vector<bool> told(m.block.threads);
    for (unsigned i = 0; i < m.block.threads && text.size() < 300; i++) {
        const Fiber& first = m.fibers[i];
        if (first.done || told[i]) continue;
        unsigned count = 0;
        for (unsigned j = i; j < m.block.threads; j++) {
            const Fiber& other = m.fibers[j];
            if (other.done || other.waits != first.waits || other.line != first.line) continue;
            told[j] = true;
            count += 1;
        }
        text += std::to_string(count) + " wait at " + first.waits + " (line " + std::to_string(first.line) + "); ";
    }
    fail("deadlock among %u threads: %s%u have left", m.block.threads, text.c_str(), m.done);
}

// Lets another fiber run; the current one is in no list, so somebody has to put it back into `ready`.
void wait(const char* what, int line) {
    Machine& m = *machine;
    Fiber* self = current;
    self->waits = what;
    self->line = line;
    if (m.ready.empty()) stuck();
    void* next = take_ready();
    if (current != self) shim_switch(&self->stack_pointer, next);
}

[[noreturn]] void fiber_main() {
    Machine& m = *machine;
    m.launch->entry->call(m.launch->parameters);
    Fiber* self = current;
    self->done = true;
    m.done += 1;
    void* ignored;
    if (m.done == m.block.threads) shim_switch(&ignored, m.home);
    if (m.ready.empty()) stuck();
    shim_switch(&ignored, take_ready());
    __builtin_unreachable();
}

void prepare(Fiber& fiber, unsigned id) {
    Machine& m = *machine;
    unsigned x = m.block.dim.x, y = m.block.dim.y;
    m.copies[id].clear();
    fiber = {nullptr, {id % x, id / x % y, id / (x * y)}, id, &m.block, nullptr, 0, false, 0, &m.copies[id]};
    // Six registers, the address to return to, and one word so that the stack has a called function's alignment.
    void** top = reinterpret_cast<void**>(m.stacks + (id + 1) * (STACK + PAGE));
    top[-2] = reinterpret_cast<void*>(fiber_main);
    memset(top - 8, 0, 6 * sizeof(void*));
    fiber.stack_pointer = top - 8;
    m.ready.push_back(id);
}

void run_block(uint3 index) {
    Machine& m = *machine;
    m.block.index = index;
    m.ready.clear();
    m.at_barrier = m.done = 0;
    m.slow = unsigned(m.draw() % (m.block.threads / 16 + 1));
    m.open.clear();
    m.unused.clear();
    for (auto& meeting : m.meetings) m.unused.push_back(meeting.get());
    memset(m.block.dynamic, 0xFF, m.block.dynamic_bytes);
    memset(m.block.fixed, 0xFF, m.block.fixed_bytes);
    for (unsigned id = 0; id < m.block.threads; id++) prepare(m.fibers[id], id);
    shim_switch(&m.home, take_ready());
    current = nullptr;
}

void run_blocks() {
    Machine& m = *machine;
    const unsigned* grid = m.launch->grid;
    std::vector<uint64_t> order(uint64_t(grid[0]) * grid[1] * grid[2]);
    for (size_t i = 0; i < order.size(); i++) order[i] = i;
    for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[m.draw() % i]);
    for (size_t at = m.launch->part; at < order.size(); at += m.launch->parts) {
        const uint64_t i = order[at];
        run_block({unsigned(i % grid[0]), unsigned(i / grid[0] % grid[1]), unsigned(i / grid[0] / grid[1])});
    }
}

struct sigaction former[NSIG];

// A fault in a running kernel ends its launch; any other goes to whoever handled it before.
void on_fault(int signal, siginfo_t* info, void* context) {
    if (running && current) {
        machine->outcome->address = reinterpret_cast<uint64_t>(info->si_addr);
        fail("%s", signal == SIGFPE ? "integer division by zero" : "access to memory outside every buffer");
    }
    const struct sigaction& before = former[signal];
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(signal, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(signal);
    } else {
        sigaction(signal, &before, nullptr); // the instruction faults again
    }
}

void catch_faults() {
    static std::once_flag once;
    std::call_once(once, [] {
        for (int signal : {SIGSEGV, SIGBUS, SIGFPE}) {
            struct sigaction action = {};
            action.sa_sigaction = on_fault;
            action.sa_flags = SA_SIGINFO | SA_ONSTACK;
            sigaction(signal, &action, &former[signal]);
        }
    });
}

}  // namespace

void fail(const char* format, ...) {
    Outcome& outcome = *machine->outcome;
    char what[384];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    uint3 b = machine->block.index, t = current->index;
    snprintf(outcome.message, sizeof outcome.message, "%s: block (%u, %u, %u), thread (%u, %u, %u): %s",
             machine->launch->entry->name, b.x, b.y, b.z, t.x, t.y, t.z, what);
    siglongjmp(machine->escape, 1);
}

void barrier(const char* file, int line) {
    Machine& m = *machine;
    if (m.at_barrier == 0) {
        m.barrier_file = file;
        m.barrier_line = line;
    } else if (m.barrier_line != line || strcmp(m.barrier_file, file) != 0) {
        fail("waits at the __syncthreads of %s:%d, others at that of %s:%d", file, line, m.barrier_file, m.barrier_line);
    }
    m.at_barrier += 1;
    if (m.at_barrier == m.block.threads) {
        m.at_barrier = 0;
        for (unsigned id = 0; id < m.block.threads; id++) m.ready.push_back(id);
    }
    wait("__syncthreads", line);
}

Meeting* meet(uint32_t mask, const char* what, const char* file, int line, const void* value, size_t bytes,
              void (*complete)(Meeting&)) {
    Machine& m = *machine;
    unsigned lane = current->id % 32, warp = current->id / 32;
    unsigned present = m.block.threads - 32 * warp;
    if (!(mask >> lane & 1)) fail("%s at %s:%d: mask %08x leaves out lane %u, which calls it", what, file, line, mask, lane);
    if (present < 32 && mask >> present != 0) fail("%s at %s:%d: mask %08x, but the warp has %u threads", what, file, line, mask, present);

    Meeting* meeting = nullptr;
    for (Meeting* other : m.open) {
        if (other->warp != warp || !(other->mask & mask)) continue;
        if (other->mask != mask || other->line != line || other->what != what || strcmp(other->file, file) != 0) {
            fail("%s of mask %08x at %s:%d, while lanes of it are at %s of mask %08x at %s:%d", what, mask, file, line,
                 other->what, other->mask, other->file, other->line);
        }
        meeting = other;
    }
    if (!meeting) {
        if (m.unused.empty()) {
            m.meetings.push_back(std::make_unique<Meeting>());
            m.unused.push_back(m.meetings.back().get());
        }
        meeting = m.unused.back();
        m.unused.pop_back();
        meeting->mask = mask, meeting->arrived = 0, meeting->left = 0;
        meeting->what = what, meeting->file = file, meeting->line = line, meeting->warp = warp;
        m.open.push_back(meeting);
    }
    if (bytes) memcpy(meeting->in[lane], value, bytes);
    meeting->arrived |= 1u << lane;
    if (meeting->arrived == mask) {
        if (complete) complete(*meeting);
        for (size_t i = 0; i < m.open.size(); i++) {
            if (m.open[i] == meeting) m.open[i] = m.open.back(), m.open.pop_back();
        }
        for (unsigned i = 0; i < 32; i++) {
            if (mask >> i & 1) m.ready.push_back(32 * warp + i);
        }
    }
    wait(what, line);
    return meeting;
}

void leave(Meeting* meeting) {
    meeting->left |= 1u << (current->id % 32);
    if (meeting->left == meeting->mask) machine->unused.push_back(meeting);
}

// Runs a launch, or this thread's part of one.
extern "C" void shim_launch(const Launch* launch, Outcome* outcome) {
    catch_faults();
    if (!machine) machine = std::make_unique<Machine>();
    Machine& m = *machine;
    *outcome = {};
    counters = {};
    m.launch = launch;
    m.outcome = outcome;
    // Sizes are part of the seed, so that a test over several of them sees as many orders.
    m.random = launch->seed;
    for (size_t i = 0; launch->entry->parameters[i]; i++) {
        if (launch->entry->parameters[i] == 'i') m.random = m.random * 0x9E3779B97F4A7C15ull + *static_cast<const unsigned*>(launch->parameters[i]);
    }
    m.random = m.random * 2 + 1;
    for (int i = 0; i < 8; i++) m.draw();
    Block& block = m.block;
    block.grid = {launch->grid[0], launch->grid[1], launch->grid[2]};
    block.dim = {launch->block[0], launch->block[1], launch->block[2]};
    block.threads = block.dim.x * block.dim.y * block.dim.z;
    block.dynamic_bytes = (launch->dynamic_bytes + 15) / 16 * 16;
    block.dynamic = m.shared + MOST_SHARED - block.dynamic_bytes;
    block.fixed = launch->fixed(&block.fixed_bytes);
    block.index = {0, 0, 0};
    running = true;
    outcome->failed = sigsetjmp(m.escape, 1);
    if (!outcome->failed) run_blocks();
    running = false;
    current = nullptr;
    outcome->counters = counters;
}

}  // namespace shim
