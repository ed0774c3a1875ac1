// A block of queries of talking-heads attention: the logits of all its heads, and what turns them into mixed weights.
#pragma once

#include <vector>

#include "../_native/product.h"
#include "../_native/tensors.h"
#include "../_native/threads.h"

namespace regard {

struct TalkingProblem {
    int64_t batch, queries, keys, query_dim, value_dim, key_heads, heads, value_heads, threads;
    double scale;
};

constexpr int64_t kMostRowsOfBlock = 48;

template <typename T, typename Stored>
struct TalkingInputs {
    const TalkingProblem& problem;
    Tensor<const Stored> query, key, value;
    const T *logits_mix, *weights_mix,
        *weights_bias;  // [heads, key_heads], [value_heads, heads], [value_heads] or null
};

// Lays one head of all tokens out: [token][pitch], or transposed, [channel][pitch].
template <typename T, typename Stored>
void lay_out(T* out, int64_t pitch, Tensor<const Stored> tensor, int64_t batch, int64_t head, int64_t tokens,
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

// All heads of one batch entry, laid out.
template <typename T>
struct Heads {
    int64_t pitch, size;
    std::vector<T> memory;

    Heads(int64_t heads, int64_t tokens, int64_t channels, bool transposed)
        : pitch(whole_vectors<T>(transposed ? tokens : channels)),
          size((transposed ? channels : tokens) * pitch),
          memory(size_t(heads * size)) {}
    T* of(int64_t head) { return memory.data() + head * size; }
};

template <typename T, typename Stored>
void fill(Heads<T>& heads, Tensor<const Stored> tensor, int64_t batch, int64_t count, int64_t tokens, bool transposed,
          int64_t threads) {
    in_parallel(count, threads, [&](int, int64_t head, int64_t end) {
        for (; head < end; ++head) lay_out<T>(heads.of(head), heads.pitch, tensor, batch, head, tokens, transposed);
    });
}

// A block of queries: logits and weights of all heads, [head][row][key], and one row of all heads, [head][key].
template <typename T, typename Stored>
struct QueryBlock {
    static constexpr int n = kLanes<T>;
    const TalkingInputs<T, Stored>& in;
    int64_t rows, pitch, plane, query_pitch;
    T *logits, *row, *query, *mix, *totals;

    static int64_t planes(const TalkingProblem& p) { return std::max(p.key_heads, p.value_heads); }
    // As many rows as fit, in equal blocks.
    static int64_t most_rows(const TalkingProblem& p, int64_t bytes) {
        const int64_t one = planes(p) * whole_vectors<T>(p.keys) * int64_t(sizeof(T));
        const int64_t most = std::min(std::clamp<int64_t>(bytes / one, 4, kMostRowsOfBlock), p.queries);
        const int64_t blocks = (p.queries + most - 1) / most;
        const int64_t rounds = (blocks + p.threads - 1) / p.threads;  // every thread is to have as many blocks
        return (p.queries + rounds * p.threads - 1) / (rounds * p.threads);
    }
    static int64_t elements(const TalkingProblem& p, int64_t rows) {
        const int64_t pitch = whole_vectors<T>(p.keys);
        return (planes(p) * rows + p.heads) * pitch + p.key_heads * rows * whole_vectors<T>(p.query_dim) +
               p.heads * (p.value_heads + 1);
    }
    QueryBlock(const TalkingInputs<T, Stored>& in, int64_t rows, Pieces<T>& pieces)
        : in(in),
          rows(rows),
          pitch(whole_vectors<T>(in.problem.keys)),
          plane(rows * pitch),
          query_pitch(whole_vectors<T>(in.problem.query_dim)),
          logits(pieces.take(planes(in.problem) * plane)),
          row(pieces.take(in.problem.heads * pitch)),
          query(pieces.take(in.problem.key_heads * rows * query_pitch)),
          mix(pieces.take(in.problem.heads * in.problem.value_heads)),
          totals(pieces.take(in.problem.heads)) {}

    // Computes the logits of `count` rows from `first` on, before the mix.
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
    // Mixes one row's logits and turns them into exp(logit - highest), 0 beyond the keys, and their sums.
    void softmax(int64_t r) {
        const TalkingProblem& p = in.problem;
        product<T>({in.logits_mix, p.key_heads, 1}, logits + r * pitch, plane, row, pitch, p.heads, pitch, p.key_heads);
        for (int64_t head = 0; head < p.heads; ++head) {
            T* const values = row + head * pitch;
            for (int64_t k = p.keys; k < pitch; ++k) values[k] = kHidden<T>;
            Vector<T> most = load(values);
            for (int64_t k = n; k < pitch; k += n) most = maximum<T>(most, load(values + k));
            const T shift = highest<T>(most);
            Vector<T> sums[4] = {};  // short sums round less than one long one
            for (int64_t k = 0; k < pitch; k += n) {
                const Vector<T> weight = exponential(load(values + k) - shift);
                store(values + k, weight);
                sums[k / n % 4] += weight;
            }
            totals[head] = total<T>((sums[0] + sums[1]) + (sums[2] + sums[3]));
        }
    }
    // Mixes one row's normalized weights; the result takes the place of its logits.
    void mix_weights(int64_t r, bool normalized) {
        const TalkingProblem& p = in.problem;
        for (int64_t i = 0; i < p.value_heads * p.heads; ++i) {
            mix[i] = normalized ? in.weights_mix[i] : in.weights_mix[i] / totals[i % p.heads];
        }
        product<T>({mix, p.heads, 1}, row, pitch, logits + r * pitch, plane, p.value_heads, pitch, p.heads);
    }
};

}  // namespace regard
