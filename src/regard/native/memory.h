// Memory that starts with a cache line, so that no vector lies on two lines: of a call, and of one thread.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace regard {

constexpr int64_t kCacheLine = 64;

template <typename T>
struct LineAllocator {
    using value_type = T;

    LineAllocator() = default;
    template <typename Other>
    LineAllocator(const LineAllocator<Other>&) {}
    T* allocate(size_t count) {
        return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(kCacheLine)));
    }
    void deallocate(T* memory, size_t) { ::operator delete(memory, std::align_val_t(kCacheLine)); }
    bool operator==(const LineAllocator&) const { return true; }
    bool operator!=(const LineAllocator&) const { return false; }
};

template <typename T>
using Lines = std::vector<T, LineAllocator<T>>;

// Returns this thread's scratch memory, zeroed and aligned. It is kept between calls unless it is large; a request for
// 0 elements ends a call.
template <typename T>
T* arena(int64_t elements) {
    constexpr int64_t max_kept_bytes = 4 << 20;
    thread_local std::unique_ptr<char[]> memory;
    thread_local int64_t capacity = 0;
    const int64_t bytes = elements * int64_t(sizeof(T)) + kCacheLine;
    if (!elements && capacity <= max_kept_bytes) return nullptr;
    if (bytes > capacity || !elements) {
        capacity = 0;
        memory.reset();  // free the old block first, to lower the peak
        if (!elements) return nullptr;
        memory.reset(new char[size_t(bytes)]);
        capacity = bytes;
    }
    std::memset(memory.get(), 0, size_t(bytes));
    return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory.get()) + kCacheLine - 1) / kCacheLine * kCacheLine);
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
