// Parallel loops on torch's OpenMP runtime, or on the pool of threads of another runtime that calls a kernel.
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#endif

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>

namespace regard {

// Runs task(data, index) for `count` indices in a pool of threads, and returns when all are done.
struct Runner {
    void (*run)(void* pool, void (*task)(void* data, size_t index), size_t count, void* data);
    void* pool;
};

// The runner of the calling thread; by default none, and OpenMP serves.
Runner& current_runner();

// Calls body(thread, begin, end) in every thread with its share of the units. Throws if a thread ran out of memory.
template <typename Body>
void in_parallel(int64_t units, int64_t threads, Body body) {
    std::atomic<bool> out_of_memory{false};  // no exception may leave a parallel region
    const auto share = [&](int64_t thread, int64_t count) {
        const int64_t begin = thread * units / count, end = (thread + 1) * units / count;
        try {
            if (begin < end) body(int(thread), begin, end);
        } catch (const std::exception&) {  // bad_alloc, or length_error of a vector
            out_of_memory = true;
        }
    };
    if (const Runner runner = current_runner(); runner.run) {
        const auto task = [&](size_t index) { share(int64_t(index), threads); };
        const auto call = [](void* data, size_t index) { (*static_cast<decltype(task)*>(data))(index); };
        runner.run(runner.pool, call, size_t(threads), const_cast<void*>(static_cast<const void*>(&task)));
    } else {
#if defined(_OPENMP)
#pragma omp parallel num_threads(int(threads))
        share(omp_get_thread_num(), omp_get_num_threads());
#else
        share(0, 1);
#endif
    }
    if (out_of_memory) throw std::bad_alloc();
}

}  // namespace regard
