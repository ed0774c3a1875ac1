// The two sums of neighborhood attention, over the neighbors of one vector of lanes.
//
//   dots: scores[t][lane] = sum over channels of own[channel][lane] * ring[channel][first(lane) + t]
//   sums: out[channel][lane] += sum over t of weights[t][lane] * ring[channel][first(lane) + t]
//
// Rows of the grid are transposed to [channel][lane] once, into a ring. Two rows of queries (or of keys, in the
// backward pass) are processed together: they share most neighbors, so one shuffle serves both.
#pragma once

#include "../../native/tensors.h"
#include "plan.h"

namespace regard::neighborhood {

// Loads neighbor t of every lane from one channel of a row that starts with the smallest first neighbor.
template <typename T, Access access>
struct Neighbors {
    static constexpr int n = kLanes<T>;
    Vector<T> low, high;
    const T* row;
    int gap;

    Neighbors(const T* from, int gap) : row(from), gap(gap) {
        if constexpr (access == Access::shuffled) {
            low = load(from);
            high = load(from + n);
        }
    }
    Vector<T> operator()(int t, Index<T> first) const {
        if constexpr (access == Access::contiguous) return load(row + t);
        if constexpr (access == Access::blended)
            return first == lane_numbers<T>() ? load(row + t) : load(row + gap + t);
        if constexpr (access == Access::shuffled) return shuffle<T>(low, high, first + t);
        Vector<T> values{};
        for (int l = 0; l < n; ++l) values[l] = row[first[l] + t];
        return values;
    }
};

// The operands of a sum over `count` neighbors, for a block of one row or two rows (`lines`).
template <typename T>
struct SumOperands {
    const T* ring;  // [channel][pitch], from the first neighbor on
    int64_t pitch, channels;
    int count, gap;
    Index<T> first;
    const T* in[2];  // dots: own, [channel][n]; sums: weights, [t][n]
    T* out[2];       // dots: scores, [t][n]; sums: [channel][n]
};

// Nested short sums round less than one long sum.
constexpr int64_t kChannelsPerSum = 32;
constexpr int kNeighborsPerSum = 16;

// The scores of one run of channels. All of a block's scores are in registers.
template <typename T, Access access, int lines, int count>
void dots(const SumOperands<T>& o, int64_t begin, int64_t end) {
    constexpr int n = kLanes<T>;
    Vector<T> scores[lines][count];
#pragma GCC unroll 2
    for (int line = 0; line < lines; ++line) {
#pragma GCC unroll 16
        for (int t = 0; t < count; ++t) scores[line][t] = splat(T(0));
    }
    for (int64_t channel = begin; channel < end; ++channel) {
        const Neighbors<T, access> neighbors(o.ring + channel * o.pitch, o.gap);
        Vector<T> own[lines];
#pragma GCC unroll 2
        for (int line = 0; line < lines; ++line) own[line] = load(o.in[line] + channel * n);
#pragma GCC unroll 16
        for (int t = 0; t < count; ++t) {
            const Vector<T> values = in_register<T>(neighbors(t, o.first));
#pragma GCC unroll 2
            for (int line = 0; line < lines; ++line) scores[line][t] += own[line] * values;
        }
    }
#pragma GCC unroll 2
    for (int line = 0; line < lines; ++line) {
#pragma GCC unroll 16
        for (int t = 0; t < count; ++t) {
            T* const out = o.out[line] + t * n;
            store(out, begin ? load(out) + scores[line][t] : scores[line][t]);
        }
    }
}
template <typename T, Access access, int lines, int count>
void dots(const SumOperands<T>& o) {
    for (int64_t begin = 0; begin < o.channels; begin += kChannelsPerSum) {
        dots<T, access, lines, count>(o, begin, std::min(begin + kChannelsPerSum, o.channels));
    }
}

// Adds to some channels of the result, which are in registers.
template <typename T, Access access, int lines, int channels>
void sums(const SumOperands<T>& o, int64_t channel) {
    constexpr int n = kLanes<T>;
    const T* const ring = o.ring + channel * o.pitch;
    Vector<T> sum[channels][lines]{};
    for (int t = 0; t < o.count; ++t) {
        Vector<T> weights[lines];
#pragma GCC unroll 2
        for (int line = 0; line < lines; ++line) weights[line] = load(o.in[line] + t * n);
#pragma GCC unroll 8
        for (int c = 0; c < channels; ++c) {
            const Neighbors<T, access> neighbors(ring + c * o.pitch, o.gap);
            const Vector<T> values = in_register<T>(neighbors(t, o.first));
#pragma GCC unroll 2
            for (int line = 0; line < lines; ++line) sum[c][line] += weights[line] * values;
        }
    }
#pragma GCC unroll 8
    for (int c = 0; c < channels; ++c) {
#pragma GCC unroll 2
        for (int line = 0; line < lines; ++line) {
            T* const out = o.out[line] + (channel + c) * n;
            store(out, load(out) + sum[c][line]);
        }
    }
}
template <typename T, Access access, int lines>
void sums(const SumOperands<T>& o) {
    constexpr int channels = 8 / lines;  // sums that fit into the registers and hide the latency of an addition
    int64_t channel = 0;
    for (; channel + channels <= o.channels; channel += channels) sums<T, access, lines, channels>(o, channel);
    for (; channel < o.channels; ++channel) sums<T, access, lines, 1>(o, channel);
}

// Neighbors per call of the dots, whose scores fit into the registers, and of the sums.
constexpr int kMaxChunks[2] = {kVectorBytes == 64 ? 7 : kVectorBytes == 32 ? 5 : 4, kNeighborsPerSum};

template <typename T>
using SumKernel = void (*)(const SumOperands<T>&);

template <typename T, Access access, int lines>
constexpr SumKernel<T> kDots[] = {dots<T, access, lines, 1>, dots<T, access, lines, 2>, dots<T, access, lines, 3>,
                                  dots<T, access, lines, 4>, dots<T, access, lines, 5>, dots<T, access, lines, 6>,
                                  dots<T, access, lines, 7>};

template <typename T, bool is_sum, Access access>
SumKernel<T> kernel_of(int lines, int count) {
    if constexpr (is_sum) return lines == 2 ? SumKernel<T>(sums<T, access, 2>) : SumKernel<T>(sums<T, access, 1>);
    return (lines == 2 ? kDots<T, access, 2> : kDots<T, access, 1>)[count - 1];
}

template <typename T, bool is_sum>
SumKernel<T> kernel_of(int lines, Access access, int count) {
    switch (access) {
        case Access::contiguous:
            return kernel_of<T, is_sum, Access::contiguous>(lines, count);
        case Access::blended:
            return kernel_of<T, is_sum, Access::blended>(lines, count);
        case Access::shuffled:
            return kernel_of<T, is_sum, Access::shuffled>(lines, count);
        default:
            return kernel_of<T, is_sum, Access::gathered>(lines, count);
    }
}

}  // namespace regard::neighborhood
