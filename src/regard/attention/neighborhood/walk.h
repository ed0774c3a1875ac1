// The two sums that neighborhood attention consists of, over the partners of vectors of lanes.
//
//   dots: scores[t][lane] = sum over channels of mine[channel][lane] * theirs[channel][first(lane) + t]
//   sums: out[channel][lane] += sum over t of weights[t][lane] * theirs[channel][first(lane) + t]
//
// Rows of the grid are transposed to [channel][lane] once, into a ring. Two rows of queries (or of keys, in the
// backward pass) are worked on together, because they share most partners: what is shuffled for one serves the other.
#pragma once

#include "../_native/tensors.h"
#include "plan.h"

namespace regard {

// Partner t of all lanes, as a vector, out of one channel of a row that begins with the smallest first partner.
template <typename T, Reach reach>
struct Partners {
    static constexpr int n = kLanes<T>;
    Vector<T> low, high;
    const T* row;

    explicit Partners(const T* from) : row(from) {
        if constexpr (reach == Reach::shuffled) {
            low = load(from);
            high = load(from + n);
        }
    }
    Vector<T> operator()(int t, Index<T> first) const {
        if constexpr (reach == Reach::contiguous) return load(row + t);
        if constexpr (reach == Reach::shuffled) return shuffle<T>(low, high, first + t);
        Vector<T> values{};
        for (int l = 0; l < n; ++l) values[l] = row[first[l] + t];
        return values;
    }
};

// What a block of one or two rows (`lines`) does with `count` partners.
template <typename T>
struct Operands {
    const T* theirs;  // [channel][pitch], at the first partner
    int64_t pitch, channels;
    Index<T> first;
    const T* in[2];  // dots: mine, [channel][n]; sums: weights, [t][n]
    T* out[2];       // dots: scores, [t][n]; sums: [channel][n]
};

constexpr int64_t kChannelsPerSum = 32;  // short sums of short sums round less than one long one

template <typename T, Reach reach, int lines, int count>
void dots(const Operands<T>& o, int64_t begin, int64_t end) {
    constexpr int n = kLanes<T>;
    Vector<T> scores[lines][count];
#pragma GCC unroll 2
    for (int line = 0; line < lines; ++line) {
#pragma GCC unroll 16
        for (int t = 0; t < count; ++t) scores[line][t] = splat(T(0));
    }
    for (int64_t channel = begin; channel < end; ++channel) {
        const Partners<T, reach> partners(o.theirs + channel * o.pitch);
        Vector<T> mine[lines];
#pragma GCC unroll 2
        for (int line = 0; line < lines; ++line) mine[line] = load(o.in[line] + channel * n);
#pragma GCC unroll 16
        for (int t = 0; t < count; ++t) {
            const Vector<T> theirs = partners(t, o.first);
#pragma GCC unroll 2
            for (int line = 0; line < lines; ++line) scores[line][t] += mine[line] * theirs;
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
template <typename T, Reach reach, int lines, int count>
void dots(const Operands<T>& o) {
    for (int64_t begin = 0; begin < o.channels; begin += kChannelsPerSum) {
        dots<T, reach, lines, count>(o, begin, std::min(begin + kChannelsPerSum, o.channels));
    }
}

template <typename T, Reach reach, int lines, int count>
void sums(const Operands<T>& o) {
    constexpr int n = kLanes<T>;
    Vector<T> weights[lines][count];
#pragma GCC unroll 2
    for (int line = 0; line < lines; ++line) {
#pragma GCC unroll 16
        for (int t = 0; t < count; ++t) weights[line][t] = load(o.in[line] + t * n);
    }
    for (int64_t channel = 0; channel < o.channels; ++channel) {
        const Partners<T, reach> partners(o.theirs + channel * o.pitch);
        Vector<T> sum[lines]{};  // of these partners; added to `out` at once
#pragma GCC unroll 16
        for (int t = 0; t < count; ++t) {
            const Vector<T> theirs = partners(t, o.first);
#pragma GCC unroll 2
            for (int line = 0; line < lines; ++line) sum[line] += weights[line][t] * theirs;
        }
#pragma GCC unroll 2
        for (int line = 0; line < lines; ++line) {
            T* out = o.out[line] + channel * n;
            store(out, load(out) + sum[line]);
        }
    }
}

constexpr int kLongestChunk = kVectorBytes == 64 ? 7 : kVectorBytes == 32 ? 5 : 4;  // what the registers hold

template <typename T>
using Kernel = void (*)(const Operands<T>&);

template <typename T, bool summing, Reach reach, int lines, int count>
constexpr Kernel<T> kKernel =
    summing ? Kernel<T>(sums<T, reach, lines, count>) : Kernel<T>(dots<T, reach, lines, count>);

template <typename T, bool summing, Reach reach, int lines>
constexpr Kernel<T> kKernels[] = {kKernel<T, summing, reach, lines, 1>, kKernel<T, summing, reach, lines, 2>,
                                  kKernel<T, summing, reach, lines, 3>, kKernel<T, summing, reach, lines, 4>,
                                  kKernel<T, summing, reach, lines, 5>, kKernel<T, summing, reach, lines, 6>,
                                  kKernel<T, summing, reach, lines, 7>};

template <typename T, bool summing>
Kernel<T> kernel_of(int lines, Reach reach, int count) {
    static constexpr const Kernel<T>* table[3][2] = {
        {kKernels<T, summing, Reach::contiguous, 1>, kKernels<T, summing, Reach::contiguous, 2>},
        {kKernels<T, summing, Reach::shuffled, 1>, kKernels<T, summing, Reach::shuffled, 2>},
        {kKernels<T, summing, Reach::gathered, 1>, kKernels<T, summing, Reach::gathered, 2>},
    };
    return table[int(reach)][lines - 1][count - 1];
}

}  // namespace regard
