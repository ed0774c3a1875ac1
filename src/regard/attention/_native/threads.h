// Threads of torch's own OpenMP runtime, and the memory of each.
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

// Calls body(thread, begin, end) in every thread with its part of the units. Throws if one of them ran out of memory.
template <typename Body>
void in_parallel(int64_t units, int64_t threads, Body body) {
    std::atomic<bool> out_of_memory{false};  // nothing may be thrown out of a parallel region
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

// One thread's memory, cleared; kept from call to call unless it is large. 0 elements: the call is over.
template <typename T>
T* arena(int64_t elements) {
    constexpr int64_t kept = 4 << 20;  // bytes
    thread_local std::unique_ptr<char[]> memory;
    thread_local int64_t capacity = 0;
    const int64_t bytes = elements * int64_t(sizeof(T)) + 64;
    if (!elements && capacity <= kept) return nullptr;
    if (bytes > capacity || !elements) {
        capacity = 0;
        memory.reset();  // before the larger one comes
        if (!elements) return nullptr;
        memory.reset(new char[size_t(bytes)]);
        capacity = bytes;
    }
    std::memset(memory.get(), 0, size_t(bytes));
    return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory.get()) + 63) / 64 * 64);
}

// Pieces of one thread's memory, for one call.
template <typename T>
struct Pieces {
    T* left;

    explicit Pieces(int64_t elements) : left(arena<T>(elements + 1)) {}
    Pieces(const Pieces&) = delete;
    ~Pieces() { arena<T>(0); }
    T* take(int64_t elements) {
        left += elements;
        return left - elements;
    }
};

}  // namespace regard
