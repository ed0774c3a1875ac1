// Passes over tokens [B, N, 1, C], for the mechanisms that pool all tokens to a few context vectors.
#pragma once

#include <type_traits>
#include <vector>

#include "tensors.h"
#include "threads.h"

namespace regard {

constexpr int64_t kTokensOfUnit = 32;  // short sums of short sums round less than one long one

// Cuts the tokens of every batch entry into units, whose partial sums are added in one order whatever the threads.
struct TokenUnits {
    int64_t tokens, of_entry, count;

    TokenUnits(int64_t batch, int64_t tokens)
        : tokens(tokens),
          of_entry((tokens + kTokensOfUnit - 1) / kTokensOfUnit),
          count(batch * of_entry) {}

    // Calls body(unit, batch entry, first token, one past the last) in all threads.
    template <typename Body>
    void in_all_threads(int64_t threads, Body body) const {
        in_parallel(count, threads, [&](int, int64_t unit, int64_t end) {
            for (; unit < end; ++unit) {
                const int64_t first = unit % of_entry * kTokensOfUnit;
                body(unit, unit / of_entry, first, std::min(first + kTokensOfUnit, tokens));
            }
        });
    }
};

// One tensor's tokens as rows of whole vectors.
template <typename T, typename Stored>
struct TokenRows {
    Tensor<Stored> tensor;
    int64_t pitch;

    explicit TokenRows(Tensor<Stored> tensor) : tensor(tensor), pitch(whole_vectors<T>(tensor.channels)) {}

    Stored* at(int64_t batch, int64_t token) const {
        return tensor.data + batch * tensor.strides[0] + token * tensor.strides[3];
    }
    void read(T* row, int64_t batch, int64_t token) const {
        read_channels<T>(row, pitch, at(batch, token), tensor.channels, tensor.strides[5], T(1));
    }
    void write(const T* row, int64_t batch, int64_t token) const {
        write_channels<T>(row, at(batch, token), tensor.channels, tensor.strides[5], T(1));
    }
    // Rows of whole vectors of T are used where they stand, others by way of `scratch`.
    bool in_place() const {
        return std::is_same_v<std::remove_const_t<Stored>, T> && tensor.strides[5] == 1 && tensor.channels == pitch;
    }
    const T* row(T* scratch, int64_t batch, int64_t token) const {
        if (in_place()) return reinterpret_cast<const T*>(at(batch, token));
        read(scratch, batch, token);
        return scratch;
    }
    T* place(T* scratch, int64_t batch, int64_t token) const {
        return in_place() ? reinterpret_cast<T*>(at(batch, token)) : scratch;
    }
    void finish(const T* scratch, int64_t batch, int64_t token) const {
        if (!in_place()) write(scratch, batch, token);
    }
};

template <typename T>
inline T dot(const T* a, const T* b, int64_t pitch) {
    Vector<T> sum{};
    for (int64_t c = 0; c < pitch; c += kLanes<T>) sum += load(a + c) * load(b + c);
    return total<T>(sum);
}

// out += row * factor
template <typename T>
inline void add_scaled(T* out, const T* row, T factor, int64_t pitch) {
    for (int64_t c = 0; c < pitch; c += kLanes<T>) store(out + c, load(out + c) + load(row + c) * factor);
}

}  // namespace regard
