// regard's kernels, from the library that lies beside this one, run by ONNX Runtime's threads.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <string>
#include <thread>

#include "../tensors.h"
#include "../threads.h"
#include "api.h"

namespace regard::onnxruntime {

// The name of the best library for this processor: `libregard_<name>.so`.
inline const char* instruction_set() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
    return v4 ? "x86_64_v4" : v3 ? "x86_64_v3" : "portable";
#else
    return "portable";
#endif
}

// The library of kernels.
class Library {
   public:
    static const Library& get() {
        static const Library library;
        return library;
    }
    template <typename Function>
    Function function(const char* name) const {
        void* found = dlsym(handle_, name);
        if (!found) throw std::runtime_error(std::string("regard: its library has no ") + name);
        return reinterpret_cast<Function>(found);
    }

   private:
    Library() {
        Dl_info info;
        if (!dladdr(reinterpret_cast<void*>(&instruction_set), &info) || !info.dli_fname) {
            throw std::runtime_error("regard: the folder of its libraries is unknown");
        }
        const std::string path = info.dli_fname;
        const std::string folder = path.substr(0, path.rfind('/') + 1);
#if defined(__APPLE__)
        const char* ending = ".dylib";
#else
        const char* ending = ".so";
#endif
        for (const std::string& name : {std::string(instruction_set()), std::string("portable")}) {
            handle_ = dlopen((folder + "libregard_" + name + ending).c_str(), RTLD_NOW | RTLD_LOCAL);
            if (handle_) return;
        }
        throw std::runtime_error("regard: no library of kernels in " + folder);
    }

    void* handle_ = nullptr;
};

// How many shares the work of a call is cut into.
inline int64_t thread_count() { return std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, 64); }

// Lets the kernels that this thread calls run in ONNX Runtime's pool of threads.
class InPool {
   public:
    explicit InPool(const Call& call) : set_(Library::get().function<SetRunner>("regard_set_runner")) {
        set_({&run, const_cast<Call*>(&call)});
    }
    ~InPool() { set_({nullptr, nullptr}); }
    InPool(const InPool&) = delete;
    InPool& operator=(const InPool&) = delete;

   private:
    using SetRunner = void (*)(Runner);

    static void run(void* pool, void (*task)(void*, size_t), size_t count, void* data) {
        const Call& call = *static_cast<const Call*>(pool);
        check<ParallelFor>(call.api, static_cast<const KernelContext*>(call.context), task, count, count, data);
    }

    SetRunner set_;
};

}  // namespace regard::onnxruntime
