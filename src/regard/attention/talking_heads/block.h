// A block of queries of talking-heads attention: the logits of all heads, mixed, and turned into mixed weights.
#pragma once

#include <vector>

#include "../../native/product.h"
#include "../../native/tensors.h"
#include "../../native/threads.h"

namespace regard::talking_heads {

struct Problem {
    int64_t batch, queries, keys, query_dim, value_dim, key_heads, heads, value_heads, threads;
    double scale;
};

constexpr int64_t kMaxRowsPerBlock = 48;

template <typename T, typename Stored>
struct Inputs {
    const Problem& problem;
    Tensor<const Stored> query, key, value;
    const T *logits_mix, *weights_mix,
        *weights_bias;  // [heads, key_heads], [value_heads, heads], [value_heads] or null
};

// Copies one head of all tokens to [token][pitch], or transposed to [channel][pitch].
template <typename T, typename Stored>
void copy_head(T* out, int64_t pitch, Tensor<const Stored> tensor, int64_t batch, int64_t head, int64_t tokens,
               bool transposed) {
    const Stored* const first = tensor.data + batch * tensor.strides[0] + head * tensor.strides[4];
    if (transposed) {
        std::vector<int64_t> offsets(tokens);
        for (int64_t t = 0; t < tokens; ++t) offsets[t] = t * tensor.strides[3];
        read_lanes<T>(out, pitch, first, offsets.data(), int(tokens), tensor.channels, tensor.strides[5], T(1));
    } else {
        for (int64_t t = 0; t < tokens; ++t) {
            read_channels<T>(out + t * pitch, pitch, first + t * tensor.strides[3], tensor.channels, tensor.strides[5],
                             T(1));
        }
    }
}

// Copies of all heads of one batch entry.
template <typename T>
struct Heads {
    int64_t pitch, size;
    std::vector<T> memory;

    Heads(int64_t heads, int64_t tokens, int64_t channels, bool transposed)
        : pitch(padded_size<T>(transposed ? tokens : channels)),
          size((transposed ? channels : tokens) * pitch),
          memory(size_t(heads * size)) {}
    T* of(int64_t head) { return memory.data() + head * size; }
};

template <typename T, typename Stored>
void fill(Heads<T>& heads, Tensor<const Stored> tensor, int64_t batch, int64_t count, int64_t tokens, bool transposed,
          int64_t threads) {
    in_parallel(count, threads, [&](int, int64_t head, int64_t end) {
        for (; head < end; ++head) copy_head<T>(heads.of(head), heads.pitch, tensor, batch, head, tokens, transposed);
    });
}

// A block of queries: `logits`, [head][row][key], which become the mixed weights row by row, and `row`, the mixed
// logits and then the weights of one row, [head][key].
template <typename T, typename Stored>
struct QueryBlock {
    static constexpr int n = kLanes<T>;
    const Inputs<T, Stored>& in;
    int64_t rows, pitch, plane, query_pitch;
    T *logits, *row, *query, *mix, *totals;

    static int64_t planes(const Problem& p) { return std::max(p.key_heads, p.value_heads); }
    // The number of rows of a block: as many as fit into `bytes`, with blocks of equal size.
    static int64_t rows_per_block(const Problem& p, int64_t bytes) {
        const int64_t row_bytes = planes(p) * padded_size<T>(p.keys) * int64_t(sizeof(T));
        const int64_t max_rows = std::min(std::clamp<int64_t>(bytes / row_bytes, 4, kMaxRowsPerBlock), p.queries);
        const int64_t blocks = (p.queries + max_rows - 1) / max_rows;
        const int64_t rounds = (blocks + p.threads - 1) / p.threads;  // the same number of blocks for every thread
        return (p.queries + rounds * p.threads - 1) / (rounds * p.threads);
    }
    static int64_t elements(const Problem& p, int64_t rows) {
        const int64_t pitch = padded_size<T>(p.keys);
        return (planes(p) * rows + p.heads) * pitch + p.key_heads * rows * padded_size<T>(p.query_dim) +
               p.heads * (p.value_heads + 1);
    }
    QueryBlock(const Inputs<T, Stored>& in, int64_t rows, Scratch<T>& scratch)
        : in(in),
          rows(rows),
          pitch(padded_size<T>(in.problem.keys)),
          plane(rows * pitch),
          query_pitch(padded_size<T>(in.problem.query_dim)),
          logits(scratch.take(planes(in.problem) * plane)),
          row(scratch.take(in.problem.heads * pitch)),
          query(scratch.take(in.problem.key_heads * rows * query_pitch)),
          mix(scratch.take(in.problem.heads * in.problem.value_heads)),
          totals(scratch.take(in.problem.heads)) {}

    // Computes the logits of `count` rows, starting with `first`, before the first mix.
    void enter(int64_t batch, int64_t first, int64_t count, Heads<T>& keys) {
        for (int64_t head = 0; head < in.problem.key_heads; ++head) {
            T* const queries = query + head * rows * query_pitch;
            const auto tensor = in.query;
            const Stored* const from = tensor.data + batch * tensor.strides[0] + head * tensor.strides[4];
            for (int64_t r = 0; r < count; ++r) {
                read_channels<T>(queries + r * query_pitch, query_pitch, from + (first + r) * tensor.strides[3],
                                 tensor.channels, tensor.strides[5], T(in.problem.scale));
            }
            product<T>({queries, query_pitch, 1}, keys.of(head), pitch, logits + head * plane, pitch, count, pitch,
                       tensor.channels);
        }
    }
    // Mixes one row's logits, and computes exp(logit - maximum), which is 0 in the padding lanes, and the sums.
    void softmax(int64_t r) {
        const Problem& p = in.problem;
        product<T>({in.logits_mix, p.key_heads, 1}, logits + r * pitch, plane, row, pitch, p.heads, pitch, p.key_heads);
        for (int64_t head = 0; head < p.heads; ++head) {
            T* const values = row + head * pitch;
            for (int64_t k = p.keys; k < pitch; ++k) values[k] = kMasked<T>;
            Vector<T> max_logits = load(values);
            for (int64_t k = n; k < pitch; k += n) max_logits = maximum<T>(max_logits, load(values + k));
            const T shift = max_lane<T>(max_logits);
            Vector<T> sums[4] = {};  // short sums round less than one long sum
            for (int64_t k = 0; k < pitch; k += n) {
                const Vector<T> weight = exponential(load(values + k) - shift);
                store(values + k, weight);
                sums[k / n % 4] += weight;
            }
            totals[head] = sum_lanes<T>((sums[0] + sums[1]) + (sums[2] + sums[3]));
        }
    }
    // Mixes one row's weights, normalizing them first if they are not. The result overwrites the row's logits.
    void mix_weights(int64_t r, bool is_normalized) {
        const Problem& p = in.problem;
        for (int64_t i = 0; i < p.value_heads * p.heads; ++i) {
            mix[i] = is_normalized ? in.weights_mix[i] : in.weights_mix[i] / totals[i % p.heads];
        }
        product<T>({mix, p.heads, 1}, row, pitch, logits + r * pitch, plane, p.value_heads, pitch, p.heads);
    }
};

}  // namespace regard::talking_heads
