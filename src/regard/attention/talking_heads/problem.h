// Talking-heads attention's arguments, and copies of a batch entry's tokens in the layouts of the products.
#pragma once

#include <vector>

#include "../../native/memory.h"
#include "../../native/product.h"
#include "../../native/tensors.h"
#include "../../native/threads.h"

namespace regard::talking_heads {

struct Problem {
    int64_t batch, queries, keys, query_dim, value_dim, key_heads, heads, value_heads, threads;
    double scale;

    int64_t max_key_or_value_heads() const { return std::max(key_heads, value_heads); }
    // The number of rows of a block of queries, which take `row_bytes` each: as many as fit into `bytes`, with blocks
    // of equal size.
    int64_t rows_per_block(int64_t row_bytes, int64_t bytes, int64_t most) const {
        const int64_t max_rows = std::min(std::clamp<int64_t>(bytes / row_bytes, 4, most), queries);
        const int64_t blocks = (queries + max_rows - 1) / max_rows;
        const int64_t rounds = (blocks + threads - 1) / threads;  // the same number of blocks for every thread
        return (queries + rounds * threads - 1) / (rounds * threads);
    }
};

template <typename T, typename Stored>
struct Inputs {
    const Problem& problem;
    Tensor<const Stored> query, key, value;
    const T *logits_mix, *weights_mix,
        *weights_bias;  // [heads, key_heads], [value_heads, heads], [value_heads] or null
};

template <typename Stored>
Stored* head_of(const Tensor<Stored>& tensor, int64_t batch, int64_t head) {
    return tensor.data + batch * tensor.strides[0] + head * tensor.strides[4];
}

// The rows of all heads of one batch entry, [head][token][pitch].
template <typename T>
struct Rows {
    int64_t heads, tokens, pitch, size;
    Lines<T> memory;

    Rows(int64_t heads, int64_t tokens, int64_t channels)
        : heads(heads),
          tokens(tokens),
          pitch(padded_size<T>(channels)),
          size(tokens * pitch),
          memory(size_t(heads * size)) {}
    T* of(int64_t head) { return memory.data() + head * size; }

    template <typename Stored>
    void read(Tensor<const Stored> tensor, int64_t batch, int64_t threads) {
        in_parallel(tokens, threads, [&](int, int64_t token, int64_t end) {
            for (; token < end; ++token) {
                for (int64_t head = 0; head < heads; ++head) {
                    read_channels<T>(of(head) + token * pitch, pitch,
                                     head_of(tensor, batch, head) + token * tensor.strides[3], tensor.channels,
                                     tensor.strides[5], T(1));
                }
            }
        });
    }
};

// The transposed rows of all heads of one batch entry, in panels, [head][panel][channel][kPanel], which a product reads
// from end to end. The last panel is padded with copies of the last token.
template <typename T>
struct Panels {
    static constexpr int64_t kPanel = kMaxVectors * kLanes<T>;
    int64_t heads, tokens, channels, size;
    Lines<T> memory;

    Panels(int64_t heads, int64_t tokens, int64_t channels)
        : heads(heads),
          tokens(tokens),
          channels(channels),
          size((tokens + kPanel - 1) / kPanel * channels * kPanel),
          memory(size_t(heads * size)) {}

    template <typename Stored>
    void read(Tensor<const Stored> tensor, int64_t batch, int64_t threads) {
        in_parallel((tokens + kPanel - 1) / kPanel, threads, [&](int, int64_t number, int64_t end) {
            for (; number < end; ++number) {
                const int64_t first = number * kPanel, count = std::min(kPanel, tokens - first);
                int64_t offsets[kPanel];
                for (int64_t t = 0; t < count; ++t) offsets[t] = (first + t) * tensor.strides[3];
                for (int64_t head = 0; head < heads; ++head) {
                    read_lanes<T>(panel(head, first), kPanel, head_of(tensor, batch, head), offsets, int(count),
                                  tensor.channels, tensor.strides[5], T(1));
                }
            }
        });
    }
    // Computes out[row][column] = sum over channels of left(row, channel) * token[first + column][channel], for
    // `columns` tokens and the padding lanes of their last vector. `first` is the first token of a panel.
    void multiply(const LeftFactor<T>& left, int64_t rows, int64_t head, int64_t first, int64_t columns, T* out,
                  int64_t pitch) const {
        for (int64_t column = 0; column < columns; column += kPanel) {
            prefetch(panel(head, first + column + kPanel), channels * kPanel);
            product<T>(left, panel(head, first + column), kPanel, out + column, pitch, rows,
                       std::min(kPanel, padded_size<T>(columns - column)), channels);
        }
    }

   private:
    T* panel(int64_t head, int64_t token) { return memory.data() + head * size + token * channels; }
    const T* panel(int64_t head, int64_t token) const { return memory.data() + head * size + token * channels; }
};

// Turns a row of logits into exp(logit - maximum), 0 in the padding lanes, and returns the maximum and the sum. Where
// all logits are -infinity, so is the maximum, and the sum is 0.
template <typename T>
std::pair<T, T> exponentiate(T* row, int64_t count) {
    constexpr int n = kLanes<T>;
    const int64_t pitch = padded_size<T>(count);
    for (int64_t k = count; k < pitch; ++k) row[k] = kMasked<T>;
    Vector<T> max_logits = load(row);
    for (int64_t k = n; k < pitch; k += n) max_logits = maximum<T>(max_logits, load(row + k));
    const T max_logit = max_lane<T>(max_logits), shift = max_logit == kMasked<T> ? T(0) : max_logit;
    Vector<T> sums[4] = {};  // short sums round less than one long sum
    for (int64_t k = 0; k < pitch; k += n) {
        const Vector<T> weight = exponential(load(row + k) - shift);
        store(row + k, weight);
        sums[k / n % 4] += weight;
    }
    return {max_logit, sum_lanes<T>((sums[0] + sums[1]) + (sums[2] + sums[3]))};
}

// What the bias of the second mix adds to the output: a multiple of the sum of each head's values.
template <typename T>
struct BiasTerms {
    const T* bias;  // [value_heads], or null
    int64_t pitch = 0;
    std::vector<T> sums;         // [value_heads][pitch]
    std::vector<char> is_exact;  // whether bias * sum is finite; if not, the bias must be added to each weight

    BiasTerms(const T* bias, Rows<T>& values, const Problem& p) : bias(bias), pitch(values.pitch) {
        if (!bias) return;
        sums.resize(size_t(p.value_heads * pitch));
        is_exact.resize(size_t(p.value_heads));
        in_parallel(p.value_heads, p.threads, [&](int, int64_t head, int64_t end) {
            std::vector<double> sum(pitch, 0.0);
            for (; head < end; ++head) {
                std::fill(sum.begin(), sum.end(), 0.0);
                for (int64_t t = 0; t < p.keys; ++t) {
                    const T* const row = values.of(head) + t * pitch;
                    for (int64_t c = 0; c < pitch; ++c) sum[size_t(c)] += row[c];
                }
                T not_finite = 0;
                for (int64_t c = 0; c < pitch; ++c) {
                    sums[size_t(head * pitch + c)] = T(sum[size_t(c)]);
                    not_finite += bias[head] * T(sum[size_t(c)]) * T(0);
                }
                is_exact[size_t(head)] = not_finite == 0;
            }
        });
    }
    const T* of(int64_t head) const { return sums.data() + head * pitch; }

    void add_to_weights(T* weights, int64_t count, int64_t head) const {
        for (int64_t i = 0; i < count; ++i) weights[i] += bias[head];
    }
    void add_to_rows(T* rows, int64_t count, int64_t head) const {
        const T* const sum = of(head);
        for (int64_t r = 0; r < count; ++r) {
            for (int64_t c = 0; c < pitch; c += kLanes<T>) {
                store(rows + r * pitch + c, load(rows + r * pitch + c) + load(sum + c) * bias[head]);
            }
        }
    }
};

}  // namespace regard::talking_heads
