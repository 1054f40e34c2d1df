// How the host driver calls a kernel: by a pointer to each parameter, as cuLaunchKernel does. The driver writes a file that
// includes the .cu and lists `shim::entry<&name>("name")` for every kernel in it; parameter types come from the compiler.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "fiber.h"

namespace shim {

struct Entry {
    const char* name;
    const char* parameters; // a letter each: p pointer, i 32-bit integer, l 64-bit integer, f float
    void (*call)(void* const* parameters);
};

// A launch, and what came of it. Mirrored in crates/dora-kernels/src/host/module.rs.
struct Launch {
    const Entry* entry;
    void* const* parameters;
    unsigned grid[3], block[3];
    size_t dynamic_bytes;
    unsigned char* (*fixed)(size_t* bytes); // static shared memory of the module on the calling thread
    uint64_t seed;
    // Every parts-th block is run, from `part` on: several system threads may share a launch.
    unsigned part, parts;
};
struct Outcome {
    Counters counters;
    int failed;
    uint64_t address;  // of a memory fault, or 0
    char message[512];
};

template <class T>
constexpr char letter() {
    static_assert(std::is_pointer_v<T> || std::is_integral_v<T> || std::is_same_v<T, float>, "a parameter of a known kind");
    if constexpr (std::is_pointer_v<T>) return 'p';
    else if constexpr (std::is_same_v<T, float>) return 'f';
    else return sizeof(T) == 8 ? 'l' : 'i';
}

template <auto kernel>
struct Call;

template <class... T, void (*kernel)(T...)>
struct Call<kernel> {
    static constexpr char letters[] = {letter<T>()..., 0};

    template <size_t... i>
    static void with(void* const* parameters, std::index_sequence<i...>) {
        kernel(*static_cast<std::remove_cv_t<T>*>(parameters[i])...);
    }
    static void call(void* const* parameters) { with(parameters, std::index_sequence_for<T...>{}); }
};

template <auto kernel>
constexpr Entry entry(const char* name) {
    return {name, Call<kernel>::letters, Call<kernel>::call};
}

}  // namespace shim
