// Parallel loops on torch's OpenMP runtime, and the scratch memory of each thread.
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#endif

#include <atomic>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
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

// Returns this thread's scratch memory, zeroed and aligned. It is kept between calls unless it is large; a request for
// 0 elements ends a call.
template <typename T>
T* arena(int64_t elements) {
    constexpr int64_t max_kept_bytes = 4 << 20;
    thread_local std::unique_ptr<char[]> memory;
    thread_local int64_t capacity = 0;
    const int64_t bytes = elements * int64_t(sizeof(T)) + 64;
    if (!elements && capacity <= max_kept_bytes) return nullptr;
    if (bytes > capacity || !elements) {
        capacity = 0;
        memory.reset();  // free the old block first, to lower the peak
        if (!elements) return nullptr;
        memory.reset(new char[size_t(bytes)]);
        capacity = bytes;
    }
    std::memset(memory.get(), 0, size_t(bytes));
    return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory.get()) + 63) / 64 * 64);
}

// This thread's scratch memory during one call, taken piece by piece.
template <typename T>
struct Scratch {
    T* next;

    explicit Scratch(int64_t elements) : next(arena<T>(elements + 1)) {}
    Scratch(const Scratch&) = delete;
    ~Scratch() { arena<T>(0); }
    T* take(int64_t elements) {
        next += elements;
        return next - elements;
    }
};

}  // namespace regard
