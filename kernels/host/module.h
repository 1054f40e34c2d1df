// The file that the host driver writes for each .cu includes it, lists its kernels in `shim_entries`, and includes this: where
// the module's static shared memory lies. That is its thread-local storage: the `__shared__` variables, and one byte by which
// the loader is made to allocate it.
#pragma once

#include <link.h>

namespace shim {

static thread_local unsigned char anchor;

struct Module {
    size_t code;
    unsigned char* data;
    size_t bytes;
};

static int find_storage(dl_phdr_info* info, size_t, void* found) {
    Module* module = static_cast<Module*>(found);
    size_t bytes = 0;
    bool here = false;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr)& part = info->dlpi_phdr[i];
        size_t start = info->dlpi_addr + part.p_vaddr;
        if (part.p_type == PT_LOAD && module->code >= start && module->code < start + part.p_memsz) here = true;
        if (part.p_type == PT_TLS) bytes = part.p_memsz;
    }
    if (here) module->data = static_cast<unsigned char*>(info->dlpi_tls_data), module->bytes = bytes;
    return here;
}

}  // namespace shim

extern "C" unsigned char* shim_shared(size_t* bytes) {
    static_cast<volatile unsigned char&>(shim::anchor) = 0;
    shim::Module module = {reinterpret_cast<size_t>(&shim_shared), nullptr, 0};
    dl_iterate_phdr(shim::find_storage, &module);
    *bytes = module.bytes;
    return module.data;
}
