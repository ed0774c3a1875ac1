// Passes over tokens [B, N, 1, C], for the mechanisms that pool all tokens into a few context vectors.
#pragma once

#include <type_traits>
#include <vector>

#include "memory.h"
#include "tensors.h"
#include "threads.h"

namespace regard {

constexpr int64_t kTokensPerUnit = 32;  // nested short sums round less than one long sum

// Cuts the tokens of every batch entry into units. Partial sums of units are added in a fixed order, so results do not
// depend on the number of threads.
struct TokenUnits {
    int64_t tokens, per_entry, count;

    TokenUnits(int64_t batch, int64_t tokens)
        : tokens(tokens),
          per_entry((tokens + kTokensPerUnit - 1) / kTokensPerUnit),
          count(batch * per_entry) {}

    // Calls body(unit, batch entry, first token, end token) for all units, in parallel.
    template <typename Body>
    void in_all_threads(int64_t threads, Body body) const {
        in_parallel(count, threads, [&](int, int64_t unit, int64_t end) {
            for (; unit < end; ++unit) {
                const int64_t first = unit % per_entry * kTokensPerUnit;
                body(unit, unit / per_entry, first, std::min(first + kTokensPerUnit, tokens));
            }
        });
    }
};

// The tokens of a tensor as rows of whole vectors.
template <typename T, typename Stored>
struct TokenRows {
    Tensor<Stored> tensor;
    int64_t pitch;

    explicit TokenRows(Tensor<Stored> tensor) : tensor(tensor), pitch(padded_size<T>(tensor.channels)) {}

    Stored* at(int64_t batch, int64_t token) const {
        return tensor.data + batch * tensor.strides[0] + token * tensor.strides[3];
    }
    void read(T* row, int64_t batch, int64_t token) const {
        read_channels<T>(row, pitch, at(batch, token), tensor.channels, tensor.strides[5], T(1));
    }
    void write(const T* row, int64_t batch, int64_t token) const {
        write_channels<T>(row, at(batch, token), tensor.channels, tensor.strides[5], T(1));
    }
    // Whether rows are whole vectors of T in memory, so that no copy is needed.
    bool is_in_place() const {
        return std::is_same_v<std::remove_const_t<Stored>, T> && tensor.strides[5] == 1 && tensor.channels == pitch;
    }
    // A row to read: in place, or copied into `buffer`.
    const T* row(T* buffer, int64_t batch, int64_t token) const {
        if (is_in_place()) return reinterpret_cast<const T*>(at(batch, token));
        read(buffer, batch, token);
        return buffer;
    }
    // Where to write a row: in place, or `buffer`, which `finish` copies out.
    T* place(T* buffer, int64_t batch, int64_t token) const {
        return is_in_place() ? reinterpret_cast<T*>(at(batch, token)) : buffer;
    }
    void finish(const T* buffer, int64_t batch, int64_t token) const {
        if (!is_in_place()) write(buffer, batch, token);
    }
};

// The dot product of two rows of whole vectors.
template <typename T>
inline T dot(const T* a, const T* b, int64_t pitch) {
    Vector<T> sum{};
    for (int64_t c = 0; c < pitch; c += kLanes<T>) sum += load(a + c) * load(b + c);
    return sum_lanes<T>(sum);
}

// Returns 0 if all values are finite, and NaN otherwise. Added to a gradient, it makes NaN what the definition makes
// NaN, where the kernel orders its sums so that infinities of different signs do not meet.
template <typename T>
inline T zero_or_nan(const T* values, int64_t count) {
    T sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += values[i] * T(0);
    return sum;
}

// Adds a multiple of a row: out += row * factor.
template <typename T>
inline void add_scaled(T* out, const T* row, T factor, int64_t pitch) {
    for (int64_t c = 0; c < pitch; c += kLanes<T>) store(out + c, load(out + c) + load(row + c) * factor);
}

}  // namespace regard
