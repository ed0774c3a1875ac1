// Parallel loops on torch's OpenMP runtime.
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#endif

#include <atomic>
#include <cstdint>
#include <exception>
#include <new>

namespace regard {

// Calls body(thread, begin, end) in every thread with its share of the units. Throws if a thread ran out of memory.
template <typename Body>
void in_parallel(int64_t units, int64_t threads, Body body) {
    std::atomic<bool> out_of_memory{false};  // no exception may leave a parallel region
#if defined(_OPENMP)
#pragma omp parallel num_threads(int(threads))
#endif
    {
#if defined(_OPENMP)
        const int64_t thread = omp_get_thread_num(), count = omp_get_num_threads();
#else
        const int64_t thread = 0, count = 1;
#endif
        const int64_t begin = thread * units / count, end = (thread + 1) * units / count;
        try {
            if (begin < end) body(int(thread), begin, end);
        } catch (const std::exception&) {  // bad_alloc, or length_error of a vector
            out_of_memory = true;
        }
    }
    if (out_of_memory) throw std::bad_alloc();
}

}  // namespace regard
