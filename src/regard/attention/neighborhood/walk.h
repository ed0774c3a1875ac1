// The two sums of neighborhood attention, over the neighbors of one vector of lanes.
//
//   dots: scores[t][lane] = sum over channels of own[channel][lane] * ring[channel][first(lane) + t]
//   sums: out[channel][lane] += sum over t of weights[t][lane] * ring[channel][first(lane) + t]
//
// Rows of the grid are transposed to [channel][lane] once, into a ring. Two rows of queries (or of keys, in the
// backward pass) are processed together: they share most neighbors, so one shuffle serves both.
#pragma once

#include "../_native/tensors.h"
#include "plan.h"

namespace regard::neighborhood {

// Loads neighbor t of every lane from one channel of a row that starts with the smallest first neighbor.
template <typename T, Access access>
struct Neighbors {
    static constexpr int n = kLanes<T>;
    Vector<T> low, high;
    const T* row;

    explicit Neighbors(const T* from) : row(from) {
        if constexpr (access == Access::shuffled) {
            low = load(from);
            high = load(from + n);
        }
    }
    Vector<T> operator()(int t, Index<T> first) const {
        if constexpr (access == Access::contiguous) return load(row + t);
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
    Index<T> first;
    const T* in[2];  // dots: own, [channel][n]; sums: weights, [t][n]
    T* out[2];       // dots: scores, [t][n]; sums: [channel][n]
};

constexpr int64_t kChannelsPerSum = 32;  // nested short sums round less than one long sum

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
        const Neighbors<T, access> neighbors(o.ring + channel * o.pitch);
        Vector<T> own[lines];
#pragma GCC unroll 2
        for (int line = 0; line < lines; ++line) own[line] = load(o.in[line] + channel * n);
#pragma GCC unroll 16
        for (int t = 0; t < count; ++t) {
            const Vector<T> values = neighbors(t, o.first);
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

template <typename T, Access access, int lines, int count>
void sums(const SumOperands<T>& o) {
    constexpr int n = kLanes<T>;
    Vector<T> weights[lines][count];
#pragma GCC unroll 2
    for (int line = 0; line < lines; ++line) {
#pragma GCC unroll 16
        for (int t = 0; t < count; ++t) weights[line][t] = load(o.in[line] + t * n);
    }
    for (int64_t channel = 0; channel < o.channels; ++channel) {
        const Neighbors<T, access> neighbors(o.ring + channel * o.pitch);
        Vector<T> sum[lines]{};  // of these neighbors, added to `out` at the end
#pragma GCC unroll 16
        for (int t = 0; t < count; ++t) {
            const Vector<T> values = neighbors(t, o.first);
#pragma GCC unroll 2
            for (int line = 0; line < lines; ++line) sum[line] += weights[line][t] * values;
        }
#pragma GCC unroll 2
        for (int line = 0; line < lines; ++line) {
            T* out = o.out[line] + channel * n;
            store(out, load(out) + sum[line]);
        }
    }
}

constexpr int kMaxChunk = kVectorBytes == 64 ? 7 : kVectorBytes == 32 ? 5 : 4;  // neighbors that fit into the registers

template <typename T>
using SumKernel = void (*)(const SumOperands<T>&);

template <typename T, bool is_sum, Access access, int lines, int count>
constexpr SumKernel<T> kKernel =
    is_sum ? SumKernel<T>(sums<T, access, lines, count>) : SumKernel<T>(dots<T, access, lines, count>);

template <typename T, bool is_sum, Access access, int lines>
constexpr SumKernel<T> kKernels[] = {kKernel<T, is_sum, access, lines, 1>, kKernel<T, is_sum, access, lines, 2>,
                                     kKernel<T, is_sum, access, lines, 3>, kKernel<T, is_sum, access, lines, 4>,
                                     kKernel<T, is_sum, access, lines, 5>, kKernel<T, is_sum, access, lines, 6>,
                                     kKernel<T, is_sum, access, lines, 7>};

template <typename T, bool is_sum>
SumKernel<T> kernel_of(int lines, Access access, int count) {
    static constexpr const SumKernel<T>* table[3][2] = {
        {kKernels<T, is_sum, Access::contiguous, 1>, kKernels<T, is_sum, Access::contiguous, 2>},
        {kKernels<T, is_sum, Access::shuffled, 1>, kKernels<T, is_sum, Access::shuffled, 2>},
        {kKernels<T, is_sum, Access::gathered, 1>, kKernels<T, is_sum, Access::gathered, 2>},
    };
    return table[int(access)][lines - 1][count - 1];
}

}  // namespace regard::neighborhood
