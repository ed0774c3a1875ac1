// Tensors as the C interface passes them, and how their elements are loaded into vectors and stored.
#pragma once

#include <algorithm>
#include <exception>

#include "simd.h"

namespace regard {

// An untyped tensor: data and strides, in elements, of batch, three grid axes, head and channel.
struct Operand {
    void* data;
    int64_t strides[6];
};

// A typed tensor. Its strides are those of its operand.
template <typename Stored>
struct Tensor {
    Stored* data;
    const int64_t* strides;
    int64_t channels;

    Stored* at(int64_t batch, int64_t z, int64_t y) const {
        return data + batch * strides[0] + z * strides[1] + y * strides[2];
    }
    int64_t offset(int64_t head, int64_t x) const { return head * strides[4] + x * strides[3]; }
};

template <typename Stored>
Tensor<Stored> tensor(const Operand& operand, int64_t channels) {
    return {static_cast<Stored*>(operand.data), operand.strides, channels};
}

// Fetches the cache lines of elements that will soon be used.
template <typename Stored>
inline void prefetch(const Stored* from, int64_t count) {
    constexpr int64_t line = 64 / sizeof(Stored);
    for (int64_t i = 0; i < count; i += line) __builtin_prefetch(from + i);
}

// Reads the elements of a row at `offsets`, times a factor, into `out`, [channel][pitch]. The last vector is padded
// with copies of the last lane.
template <typename T, typename Stored>
void read_lanes(T* out, int64_t pitch, const Stored* row, const int64_t* offsets, int lanes, int64_t channels,
                int64_t channel_stride, T factor) {
    constexpr int n = kLanes<T>;
    for (int lane = 0; lane < lanes; lane += n) {
        const Stored* from[n];
        for (int l = 0; l < n; ++l) {
            from[l] = row + offsets[std::min(lane + l, lanes - 1)];
            prefetch(row + offsets[std::min(lane + n + l, lanes - 1)], channels * channel_stride);
        }
        int64_t channel = 0;
        for (; channel_stride == 1 && channel + n <= channels; channel += n) {
            Vector<T> rows[n];
#pragma GCC unroll 16
            for (int l = 0; l < n; ++l) rows[l] = load_as<T>(from[l] + channel);
            transpose<T>(rows);
#pragma GCC unroll 16
            for (int c = 0; c < n; ++c) store(out + (channel + c) * pitch + lane, rows[c] * factor);
        }
        for (; channel < channels; ++channel) {
            for (int l = 0; l < n; ++l)
                out[channel * pitch + lane + l] = widen(from[l][channel * channel_stride]) * factor;
        }
    }
}

// Writes one vector of lanes, [channel][n], times one factor per lane.
template <typename T, typename Stored>
void write_lanes(const T* in, Stored* row, const int64_t* offsets, int lanes, int64_t channels, int64_t channel_stride,
                 Vector<T> factor) {
    constexpr int n = kLanes<T>;
    int64_t channel = 0;
    for (; channel_stride == 1 && channel + n <= channels; channel += n) {
        Vector<T> rows[n];
#pragma GCC unroll 16
        for (int c = 0; c < n; ++c) rows[c] = load(in + (channel + c) * n) * factor;
        transpose<T>(rows);
        for (int l = 0; l < lanes; ++l) store_as<T>(row + offsets[l] + channel, rows[l]);
    }
    for (; channel < channels; ++channel) {
        const Vector<T> values = load(in + channel * n) * factor;
        for (int l = 0; l < lanes; ++l) row[offsets[l] + channel * channel_stride] = narrow<Stored>(values[l]);
    }
}

// Reads a row of channels, times a factor, and pads it with zeros to `pitch`, a whole number of vectors.
template <typename T, typename Stored>
void read_channels(T* out, int64_t pitch, const Stored* from, int64_t channels, int64_t channel_stride, T factor) {
    constexpr int n = kLanes<T>;
    int64_t channel = 0;
    for (; channel_stride == 1 && channel + n <= channels; channel += n) {
        store(out + channel, load_as<T>(from + channel) * factor);
    }
    for (; channel < channels; ++channel) out[channel] = widen(from[channel * channel_stride]) * factor;
    for (; channel < pitch; ++channel) out[channel] = 0;
}

// Writes a row of channels, times a factor.
template <typename T, typename Stored>
void write_channels(const T* in, Stored* to, int64_t channels, int64_t channel_stride, T factor) {
    constexpr int n = kLanes<T>;
    int64_t channel = 0;
    for (; channel_stride == 1 && channel + n <= channels; channel += n)
        store_as<T>(to + channel, load(in + channel) * factor);
    for (; channel < channels; ++channel) to[channel * channel_stride] = narrow<Stored>(in[channel] * factor);
}

// The padding lanes of rows of `count` elements and `padded_size<T>(count)` lanes.
template <typename T>
struct Padding {
    int64_t last;  // the first lane of the last vector
    Index<T> is_padding;
    bool is_empty;

    explicit Padding(int64_t count) : last((count - 1) / kLanes<T> * kLanes<T>), is_empty(count % kLanes<T> == 0) {
        for (int lane = 0; lane < kLanes<T>; ++lane) is_padding[lane] = last + lane < count ? 0 : -1;
    }
    void clear(T* row) const {
        if (!is_empty) store(row + last, is_padding ? splat(T(0)) : load(row + last));
    }
};

// The number of elements, rounded up to whole vectors.
template <typename T>
constexpr int64_t padded_size(int64_t elements) {
    return (elements + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// Calls run(T(), Stored()) for a dtype: 0 float32, 1 bfloat16, 2 float16, 3 float64. T, the type of arithmetic,
// statistics and biases, is double for float64 and float otherwise. Returns 0, or 1 if the memory did not suffice.
template <typename Run>
int for_dtype(int64_t dtype, Run run) {
    try {
        if (dtype == 0) run(float(), float());
        if (dtype == 1) run(float(), BFloat16());
        if (dtype == 2) run(float(), Half());
        if (dtype == 3) run(double(), double());
    } catch (const std::exception&) {  // bad_alloc, or length_error of a vector
        return 1;
    }
    return 0;
}

}  // namespace regard

#define REGARD_EXPORT extern "C" __attribute__((visibility("default")))
