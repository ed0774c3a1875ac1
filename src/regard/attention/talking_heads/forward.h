// The forward pass of talking-heads attention. A block of queries meets the keys in chunks, and all that happens to a
// chunk's logits (product, first mix, exponential) happens while they are in the cache. Each chunk's weights are
// relative to its own maximum; the second mix corrects them together with the softmax's division.
#pragma once

#include <tuple>

#include "problem.h"

namespace regard::talking_heads {

constexpr int64_t kForwardBytes = 2 * 1024 * 1024;  // of a block's weights before the second mix
constexpr int64_t kForwardRows = 48;
constexpr int64_t kChunk = 128;  // keys
static_assert(kChunk % Panels<float>::kPanel == 0 && kChunk % Panels<double>::kPanel == 0);

template <typename T, typename Stored>
class ForwardBlock {
    static constexpr int n = kLanes<T>;
    // One vector more than the heads' keys: the same key of other rows falls on another place of the cache.
    static int64_t row_size(int64_t heads) { return heads * kChunk + n; }

    const Inputs<T, Stored>& in;
    const Problem& p;
    int64_t rows, chunks, query_pitch, value_pitch, statistics;
    Scratch<T> scratch;
    T *weights, *maxima, *totals, *mixed, *query, *mix, *out;

    int64_t elements() const {
        return rows * (chunks * row_size(p.heads) + row_size(p.max_key_or_value_heads()) + p.key_heads * query_pitch +
                       p.value_heads * value_pitch) +
               (2 * chunks) * statistics + p.heads * p.value_heads;
    }
    T* weights_of(int64_t chunk, int64_t row) { return weights + (chunk * rows + row) * row_size(p.heads); }
    int64_t keys_of(int64_t chunk) const { return std::min(kChunk, p.keys - chunk * kChunk); }

   public:
    static int64_t rows_per_block(const Problem& p) {
        const int64_t chunks = (p.keys + kChunk - 1) / kChunk;
        return p.rows_per_block(chunks * row_size(p.heads) * int64_t(sizeof(T)), kForwardBytes, kForwardRows);
    }
    ForwardBlock(const Inputs<T, Stored>& in, int64_t rows)
        : in(in),
          p(in.problem),
          rows(rows),
          chunks((p.keys + kChunk - 1) / kChunk),
          query_pitch(padded_size<T>(p.query_dim)),
          value_pitch(padded_size<T>(p.value_dim)),
          statistics(padded_size<T>(rows * p.heads)),
          scratch(elements()),
          weights(scratch.take(chunks * rows * row_size(p.heads))),
          maxima(scratch.take(chunks * statistics)),
          totals(scratch.take(chunks * statistics)),
          mixed(scratch.take(rows * row_size(p.max_key_or_value_heads()))),
          query(scratch.take(rows * p.key_heads * query_pitch)),
          mix(scratch.take(p.heads * p.value_heads)),
          out(scratch.take(rows * p.value_heads * value_pitch)) {}

    void compute(int64_t batch, int64_t first, int64_t count, const Panels<T>& keys, Rows<T>& values,
                 const BiasTerms<T>& terms, const Tensor<Stored>& to) {
        read_queries(batch, first, count);
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            compute_logits(chunk, count, keys);
            for (int64_t r = 0; r < count; ++r) mix_logits(chunk, r);
        }
        compute_factors();
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            for (int64_t r = 0; r < count; ++r) mix_weights(chunk, r);
            for (int64_t head = 0; head < p.value_heads; ++head) add_values(chunk, head, count, values, terms);
        }
        write(batch, first, count, terms, to);
    }

   private:
    void read_queries(int64_t batch, int64_t first, int64_t count) {
        for (int64_t r = 0; r < count; ++r) {
            for (int64_t head = 0; head < p.key_heads; ++head) {
                read_channels<T>(query + (head * rows + r) * query_pitch, query_pitch,
                                 head_of(in.query, batch, head) + (first + r) * in.query.strides[3], p.query_dim,
                                 in.query.strides[5], T(p.scale));
            }
        }
    }
    void compute_logits(int64_t chunk, int64_t count, const Panels<T>& keys) {
        for (int64_t head = 0; head < p.key_heads; ++head) {
            keys.multiply({query + head * rows * query_pitch, query_pitch, 1}, count, head, chunk * kChunk,
                          keys_of(chunk), mixed + head * kChunk, row_size(p.key_heads));
        }
    }
    // Mixes one row's logits and exponentiates them, relative to the chunk's maximum.
    void mix_logits(int64_t chunk, int64_t r) {
        const int64_t keys = keys_of(chunk);
        T* const row = weights_of(chunk, r);
        product<T>({in.logits_mix, p.key_heads, 1}, mixed + r * row_size(p.key_heads), kChunk, row, kChunk, p.heads,
                   padded_size<T>(keys), p.key_heads);
        for (int64_t head = 0; head < p.heads; ++head) {
            const int64_t at = chunk * statistics + r * p.heads + head;
            std::tie(maxima[at], totals[at]) = exponentiate<T>(row + head * kChunk, keys);
        }
    }
    // Turns each chunk's maxima into what its weights must be multiplied by.
    void compute_factors() {
        for (int64_t i = 0; i < statistics; i += n) {
            Vector<T> max_logit = load(maxima + i), total{};
            for (int64_t chunk = 1; chunk < chunks; ++chunk)
                max_logit = maximum<T>(max_logit, load(maxima + chunk * statistics + i));
            for (int64_t chunk = 0; chunk < chunks; ++chunk) {
                T* const factor = maxima + chunk * statistics + i;
                store(factor, exponential(load(factor) - max_logit));
                total += load(factor) * load(totals + chunk * statistics + i);
            }
            for (int64_t chunk = 0; chunk < chunks; ++chunk) {
                T* const factor = maxima + chunk * statistics + i;
                store(factor, load(factor) / total);
            }
        }
    }
    void mix_weights(int64_t chunk, int64_t r) {
        const T* const factors = maxima + chunk * statistics + r * p.heads;
        for (int64_t to = 0; to < p.value_heads; ++to) {
            for (int64_t head = 0; head < p.heads; ++head)
                mix[to * p.heads + head] = in.weights_mix[to * p.heads + head] * factors[head];
        }
        product<T>({mix, p.heads, 1}, weights_of(chunk, r), kChunk, mixed + r * row_size(p.value_heads), kChunk,
                   p.value_heads, padded_size<T>(keys_of(chunk)), p.heads);
    }
    void add_values(int64_t chunk, int64_t head, int64_t count, Rows<T>& values, const BiasTerms<T>& terms) {
        const int64_t pitch = row_size(p.value_heads), keys = keys_of(chunk);
        T* const left = mixed + head * kChunk;
        for (int64_t r = 0; terms.bias && !terms.is_exact[size_t(head)] && r < count; ++r)
            terms.add_to_weights(left + r * pitch, keys, head);
        product<T>({left, pitch, 1}, values.of(head) + chunk * kChunk * value_pitch, value_pitch,
                   out + head * rows * value_pitch, value_pitch, count, value_pitch, keys, chunk > 0);
    }
    void write(int64_t batch, int64_t first, int64_t count, const BiasTerms<T>& terms, const Tensor<Stored>& to) {
        for (int64_t head = 0; head < p.value_heads; ++head) {
            if (terms.bias && terms.is_exact[size_t(head)])
                terms.add_to_rows(out + head * rows * value_pitch, count, head);
        }
        for (int64_t r = 0; r < count; ++r) {
            for (int64_t head = 0; head < p.value_heads; ++head) {
                write_channels<T>(out + (head * rows + r) * value_pitch,
                                  head_of(to, batch, head) + (first + r) * to.strides[3], to.channels, to.strides[5],
                                  T(1));
            }
        }
    }
};

template <typename T, typename Stored>
void forward(const Inputs<T, Stored>& in, const Tensor<Stored>& out) {
    const Problem& p = in.problem;
    const int64_t rows = ForwardBlock<T, Stored>::rows_per_block(p), blocks = (p.queries + rows - 1) / rows;
    Panels<T> keys(p.key_heads, p.keys, p.query_dim);
    Rows<T> values(p.value_heads, p.keys, p.value_dim);
    for (int64_t batch = 0; batch < p.batch; ++batch) {
        keys.read(in.key, batch, p.threads);
        values.read(in.value, batch, p.threads);
        const BiasTerms<T> terms(in.weights_bias, values, p);
        in_parallel(blocks, p.threads, [&](int, int64_t unit, int64_t end) {
            ForwardBlock<T, Stored> block(in, rows);
            for (; unit < end; ++unit)
                block.compute(batch, unit * rows, std::min(rows, p.queries - unit * rows), keys, values, terms, out);
        });
    }
}

}  // namespace regard::talking_heads
