// The backward pass of talking-heads attention, which computes the weights of a block of queries again. Gradients of
// keys and values are collected per thread and added in the order of the threads.
#pragma once

#include <cmath>

#include "problem.h"

namespace regard::talking_heads {

// Of a block's logits and their gradients. Blocks are large, since each goes over all keys.
constexpr int64_t kBackwardBytes = 7 * 1024 * 1024;
constexpr int64_t kBackwardRows = 48;

// A block of queries: `logits`, [head][row][key], which become the mixed weights row by row, and `row`, the mixed
// logits and then the weights of one row, [head][key].
template <typename T, typename Stored>
struct QueryBlock {
    const Inputs<T, Stored>& in;
    int64_t rows, pitch, plane, query_pitch;
    T *logits, *row, *query, *totals;

    static int64_t elements(const Problem& p, int64_t rows) {
        const int64_t pitch = padded_size<T>(p.keys);
        return (p.max_key_or_value_heads() * rows + p.heads) * pitch +
               p.key_heads * rows * padded_size<T>(p.query_dim) + p.heads;
    }
    QueryBlock(const Inputs<T, Stored>& in, int64_t rows, Scratch<T>& scratch)
        : in(in),
          rows(rows),
          pitch(padded_size<T>(in.problem.keys)),
          plane(rows * pitch),
          query_pitch(padded_size<T>(in.problem.query_dim)),
          logits(scratch.take(in.problem.max_key_or_value_heads() * plane)),
          row(scratch.take(in.problem.heads * pitch)),
          query(scratch.take(in.problem.key_heads * rows * query_pitch)),
          totals(scratch.take(in.problem.heads)) {}

    // Computes the logits of `count` rows, starting with `first`, before the first mix.
    void enter(int64_t batch, int64_t first, int64_t count, const Panels<T>& keys) {
        for (int64_t head = 0; head < in.problem.key_heads; ++head) {
            T* const queries = query + head * rows * query_pitch;
            const auto tensor = in.query;
            const Stored* const from = head_of(tensor, batch, head);
            for (int64_t r = 0; r < count; ++r) {
                read_channels<T>(queries + r * query_pitch, query_pitch, from + (first + r) * tensor.strides[3],
                                 tensor.channels, tensor.strides[5], T(in.problem.scale));
            }
            keys.multiply({queries, query_pitch, 1}, count, head, 0, in.problem.keys, logits + head * plane, pitch);
        }
    }
    // Mixes one row's logits, and exponentiates them.
    void softmax(int64_t r) {
        const Problem& p = in.problem;
        product<T>({in.logits_mix, p.key_heads, 1}, logits + r * pitch, plane, row, pitch, p.heads, pitch, p.key_heads);
        for (int64_t head = 0; head < p.heads; ++head)
            totals[head] = exponentiate<T>(row + head * pitch, p.keys).second;
    }
    // Mixes one row's normalized weights. The result overwrites the row's logits.
    void mix_weights(int64_t r) {
        const Problem& p = in.problem;
        product<T>({in.weights_mix, p.heads, 1}, row, pitch, logits + r * pitch, plane, p.value_heads, pitch, p.heads);
    }
};

// Adds dot products of planes: out[i][j] += sum over `columns` columns of left[i] * right[j].
template <typename T>
void add_products(const T* left, int64_t left_plane, int64_t m, const T* right, int64_t right_plane, int64_t k,
                  int64_t columns, double* out) {
    constexpr int lanes = kLanes<T>;
    for (int64_t i = 0; i < m; i += 2) {
        for (int64_t j = 0; j < k; j += 4) {
            const int64_t rows = std::min<int64_t>(2, m - i), others = std::min<int64_t>(4, k - j);
            Vector<T> sums[2][4] = {};
            for (int64_t c = 0; c < columns; c += lanes) {
                for (int64_t a = 0; a < rows; ++a) {
                    const Vector<T> values = load(left + (i + a) * left_plane + c);
                    for (int64_t b = 0; b < others; ++b) sums[a][b] += values * load(right + (j + b) * right_plane + c);
                }
            }
            for (int64_t a = 0; a < rows; ++a) {
                for (int64_t b = 0; b < others; ++b) out[(i + a) * k + j + b] += sum_lanes<T>(sums[a][b]);
            }
        }
    }
}

template <typename T, typename Stored>
struct Grads {
    Tensor<const Stored> out;
    Tensor<Stored> query, key, value;
    T *logits_mix, *weights_mix, *weights_bias;
};

// The sums of one thread: gradients of keys and values of the current batch entry, and of the mixes of all entries.
template <typename T>
struct Collected {
    Lines<T> key, value;
    std::vector<double> logits_mix, weights_mix, weights_bias;
};

// Turns one row's gradients of mixed weights, in `grads`, into those of the logits, and adds those of the mixes to
// `collected`.
template <typename T, typename Stored>
void backward_row(QueryBlock<T, Stored>& block, int64_t r, T* grads, T* row_grads, Collected<T>& collected) {
    constexpr int n = kLanes<T>;
    const Problem& p = block.in.problem;
    T* const mixed = grads + r * block.pitch;
    for (int64_t head = 0; head < p.heads; ++head) {
        T* const weights = block.row + head * block.pitch;
        for (int64_t k = 0; k < block.pitch; k += n) store(weights + k, load(weights + k) / block.totals[head]);
    }
    add_products<T>(mixed, block.plane, p.value_heads, block.row, block.pitch, p.heads, block.pitch,
                    collected.weights_mix.data());
    product<T>({block.in.weights_mix, 1, p.heads}, mixed, block.plane, row_grads, block.pitch, p.heads, block.pitch,
               p.value_heads);
    for (int64_t head = 0; head < p.heads; ++head) {
        T *const weights = block.row + head * block.pitch, *const grad = row_grads + head * block.pitch;
        Vector<T> sums[4] = {};
        for (int64_t k = 0; k < block.pitch; k += n) sums[k / n % 4] += load(weights + k) * load(grad + k);
        const T mean = sum_lanes<T>((sums[0] + sums[1]) + (sums[2] + sums[3]));
        for (int64_t k = 0; k < block.pitch; k += n) store(grad + k, load(weights + k) * (load(grad + k) - mean));
    }
    add_products<T>(row_grads, block.pitch, p.heads, block.logits + r * block.pitch, block.plane, p.key_heads,
                    block.pitch, collected.logits_mix.data());
    product<T>({block.in.logits_mix, 1, p.key_heads}, row_grads, block.pitch, mixed, block.plane, p.key_heads,
               block.pitch, p.heads);
}

// Copies of the keys and values of one batch entry.
template <typename T>
struct KeysAndValues {
    Panels<T> keys, values;
    Rows<T> key_rows, value_rows;

    explicit KeysAndValues(const Problem& p)
        : keys(p.key_heads, p.keys, p.query_dim),
          values(p.value_heads, p.keys, p.value_dim),
          key_rows(p.key_heads, p.keys, p.query_dim),
          value_rows(p.value_heads, p.keys, p.value_dim) {}

    template <typename Stored>
    void enter(const Inputs<T, Stored>& in, int64_t batch) {
        const int64_t threads = in.problem.threads;
        keys.read(in.key, batch, threads);
        key_rows.read(in.key, batch, threads);
        values.read(in.value, batch, threads);
        value_rows.read(in.value, batch, threads);
    }
};

// Writes one gradient of keys or values: the sum over the threads, in their order.
template <typename T, typename Stored, typename Member>
void write_sum(const Problem& p, int64_t batch, Tensor<Stored> tensor, const Rows<T>& heads, int64_t count,
               const std::vector<Collected<T>>& collected, Member member) {
    in_parallel(count, p.threads, [&](int, int64_t head, int64_t end) {
        std::vector<T> row(size_t(heads.pitch));
        for (; head < end; ++head) {
            Stored* const to = tensor.data + batch * tensor.strides[0] + head * tensor.strides[4];
            for (int64_t t = 0; t < p.keys; ++t) {
                std::fill(row.begin(), row.end(), T(0));
                for (const Collected<T>& one : collected) {
                    const Lines<T>& values = one.*member;
                    if (values.empty()) continue;
                    const T* const from = values.data() + head * heads.size + t * heads.pitch;
                    for (int64_t c = 0; c < heads.pitch; ++c) row[size_t(c)] += from[c];
                }
                write_channels<T>(row.data(), to + t * tensor.strides[3], tensor.channels, tensor.strides[5], T(1));
            }
        }
    });
}

// The backward pass of one thread over blocks of queries of one batch entry.
template <typename T, typename Stored>
struct Backward {
    const Inputs<T, Stored>& in;
    const Grads<T, Stored>& grads;
    KeysAndValues<T>& tokens;
    const BiasTerms<T>& terms;
    Collected<T>& collected;
    int64_t batch, rows, pitch, query_pitch, value_pitch;
    Scratch<T> scratch;
    QueryBlock<T, Stored> block;
    T *weight_grads, *row_grads, *outs, *result;

    Backward(const Inputs<T, Stored>& in, const Grads<T, Stored>& grads, KeysAndValues<T>& tokens,
             const BiasTerms<T>& terms, Collected<T>& collected, int64_t batch, int64_t rows)
        : in(in),
          grads(grads),
          tokens(tokens),
          terms(terms),
          collected(collected),
          batch(batch),
          rows(rows),
          pitch(padded_size<T>(in.problem.keys)),
          query_pitch(tokens.key_rows.pitch),
          value_pitch(tokens.value_rows.pitch),
          scratch(elements()),
          block(in, rows, scratch),
          weight_grads(scratch.take(in.problem.max_key_or_value_heads() * block.plane)),
          row_grads(scratch.take(in.problem.heads * pitch)),
          outs(scratch.take(in.problem.value_heads * rows * value_pitch)),
          result(scratch.take(rows * query_pitch)) {
        collected.key.assign(size_t(in.problem.key_heads * tokens.key_rows.size), T(0));
        collected.value.assign(size_t(in.problem.value_heads * tokens.value_rows.size), T(0));
    }
    int64_t elements() const {
        const Problem& p = in.problem;
        return QueryBlock<T, Stored>::elements(p, rows) + (p.max_key_or_value_heads() * rows + p.heads) * pitch +
               p.value_heads * rows * value_pitch + rows * query_pitch;
    }
    void compute(int64_t unit) {
        const int64_t first = unit * rows, count = std::min(rows, in.problem.queries - first);
        block.enter(batch, first, count, tokens.keys);
        for (int64_t head = 0; head < in.problem.value_heads; ++head) backward_out(head, first, count);
        for (int64_t r = 0; r < count; ++r) {
            block.softmax(r);
            backward_row(block, r, weight_grads, row_grads, collected);
            block.mix_weights(r);
        }
        for (int64_t head = 0; head < in.problem.value_heads; ++head) backward_value(head, count);
        for (int64_t head = 0; head < in.problem.key_heads; ++head) backward_logits(head, first, count);
    }

   private:
    // Reads the gradients of a head's output, and computes those of its mixed weights and of the second mix's bias.
    void backward_out(int64_t head, int64_t first, int64_t count) {
        const int64_t keys = in.problem.keys;
        const Tensor<const Stored>& tensor = grads.out;
        const Stored* const from = tensor.data + batch * tensor.strides[0] + head * tensor.strides[4];
        T *const out = outs + head * rows * value_pitch, *const grad = weight_grads + head * block.plane;
        for (int64_t r = 0; r < count; ++r) {
            read_channels<T>(out + r * value_pitch, value_pitch, from + (first + r) * tensor.strides[3],
                             tensor.channels, tensor.strides[5], T(1));
        }
        tokens.values.multiply({out, value_pitch, 1}, count, head, 0, keys, grad, pitch);
        const Padding<T> padding(keys);
        for (int64_t r = 0; r < count; ++r) {
            T* const row = grad + r * pitch;
            padding.clear(row);  // times a weight of 0, infinities would become NaN
            if (!terms.bias) continue;
            double sum = 0;
            for (int64_t c = 0; c < value_pitch; ++c) sum += double(out[r * value_pitch + c]) * terms.of(head)[c];
            if (!std::isfinite(sum)) {  // infinities of both signs must meet, as in the definition
                sum = 0;
                for (int64_t k = 0; k < keys; ++k) sum += row[k];
            }
            collected.weights_bias[size_t(head)] += sum;
        }
    }
    void backward_value(int64_t head, int64_t count) {
        T *const weights = block.logits + head * block.plane, *const out = outs + head * rows * value_pitch;
        if (terms.bias) terms.add_to_weights(weights, count * pitch, head);
        product<T>({weights, 1, pitch}, out, value_pitch, collected.value.data() + head * tokens.value_rows.size,
                   value_pitch, in.problem.keys, value_pitch, count, true);
    }
    // Computes the gradients of one head's keys and queries from those of its logits.
    void backward_logits(int64_t head, int64_t first, int64_t count) {
        const int64_t keys = in.problem.keys;
        T *const grad = weight_grads + head * block.plane, *const query = block.query + head * rows * query_pitch;
        product<T>({grad, 1, pitch}, query, query_pitch, collected.key.data() + head * tokens.key_rows.size,
                   query_pitch, keys, query_pitch, count, true);
        product<T>({grad, pitch, 1}, tokens.key_rows.of(head), query_pitch, result, query_pitch, count, query_pitch,
                   keys);
        const Tensor<Stored>& tensor = grads.query;
        Stored* const to = tensor.data + batch * tensor.strides[0] + head * tensor.strides[4];
        for (int64_t r = 0; r < count; ++r) {
            write_channels<T>(result + r * query_pitch, to + (first + r) * tensor.strides[3], tensor.channels,
                              tensor.strides[5], T(in.problem.scale));
        }
    }
};

// Writes the sum of all threads' gradients of a mix or bias, if it is wanted.
template <typename T, typename Member>
void write_mix(T* to, int64_t size, const std::vector<Collected<T>>& collected, Member member) {
    for (int64_t i = 0; to && i < size; ++i) {
        double sum = 0;
        for (const Collected<T>& one : collected) sum += (one.*member)[size_t(i)];
        to[i] = T(sum);
    }
}

template <typename T, typename Stored>
void backward(const Inputs<T, Stored>& in, const Grads<T, Stored>& grads) {
    const Problem& p = in.problem;
    const int64_t row_bytes = p.max_key_or_value_heads() * padded_size<T>(p.keys) * int64_t(sizeof(T));
    const int64_t rows = p.rows_per_block(row_bytes, kBackwardBytes / 2, kBackwardRows);
    const int64_t blocks = (p.queries + rows - 1) / rows;
    KeysAndValues<T> tokens(p);
    std::vector<Collected<T>> collected(size_t(p.threads));
    for (Collected<T>& one : collected) {
        one.logits_mix.resize(size_t(p.heads * p.key_heads));
        one.weights_mix.resize(size_t(p.value_heads * p.heads));
        one.weights_bias.resize(size_t(p.value_heads));
    }
    for (int64_t batch = 0; batch < p.batch; ++batch) {
        tokens.enter(in, batch);
        const BiasTerms<T> terms(in.weights_bias, tokens.value_rows, p);
        in_parallel(blocks, p.threads, [&](int thread, int64_t unit, int64_t end) {
            Backward<T, Stored> pass(in, grads, tokens, terms, collected[size_t(thread)], batch, rows);
            for (; unit < end; ++unit) pass.compute(unit);
        });
        write_sum(p, batch, grads.key, tokens.key_rows, p.key_heads, collected, &Collected<T>::key);
        write_sum(p, batch, grads.value, tokens.value_rows, p.value_heads, collected, &Collected<T>::value);
        for (Collected<T>& one : collected) {
            one.key.clear();
            one.value.clear();
        }
    }
    write_mix(grads.logits_mix, p.heads * p.key_heads, collected, &Collected<T>::logits_mix);
    write_mix(grads.weights_mix, p.value_heads * p.heads, collected, &Collected<T>::weights_mix);
    write_mix(grads.weights_bias, p.value_heads, collected, &Collected<T>::weights_bias);
}

}  // namespace regard::talking_heads
