// Additive attention on the CPU, forward and backward, over tokens [B, N, C] with the heads side by side. It pools
// twice: first the queries, then the keys times the pooled query. Each pass over the tokens reads them once. The biases
// of the scores are the same for all tokens and cancel in the softmax.
#include <cmath>

#include "../../native/tokens.h"

namespace regard::additive {

struct Problem {
    int64_t batch, tokens, heads, head_dim, threads;
    double scale;

    int64_t channels() const { return heads * head_dim; }
};

// The pooled tokens of every batch entry, [B][C], and the statistics that turn scores into weights, [B][nh] each.
template <typename T>
struct PooledHeads {
    std::vector<T> context, max_score;
    std::vector<double> divisor;
};

// The rows of one pooling: tokens, multiplied by one vector per batch entry if `factors` is not null.
template <typename T, typename Stored>
struct ScaledRows {
    TokenRows<T, const Stored> tokens;
    const T* factors;  // [B][pitch], or null

    void read(T* row, int64_t batch, int64_t token) const {
        tokens.read(row, batch, token);
        if (!factors) return;
        const T* const factor = factors + batch * tokens.pitch;
        for (int64_t c = 0; c < tokens.pitch; c += kLanes<T>) store(row + c, load(row + c) * load(factor + c));
    }
};

// Lays out the weights of all heads, [nh][C], times the scale, as rows of whole vectors. Every pass must compute the
// same bits for a score. If the score were scaled afterwards, the compiler could fuse that product with a subtraction
// in one pass only.
template <typename T>
std::vector<T> scaled_weight_rows(const T* weight, const Problem& p, int64_t pitch) {
    std::vector<T> rows(size_t(p.heads * pitch));
    for (int64_t head = 0; head < p.heads; ++head) {
        for (int64_t c = 0; c < p.channels(); ++c) {
            rows[size_t(head * pitch + c)] = weight[head * p.channels() + c] * T(p.scale);
        }
    }
    return rows;
}

// The softmax pooling of every unit of tokens: unnormalized sums, relative to the unit's maximum score.
template <typename T>
struct UnitPools {
    std::vector<double> context, sums;  // [unit][pitch], [unit][nh]
    std::vector<T> max_score;           // [unit][nh]

    UnitPools(int64_t units, int64_t heads, int64_t pitch)
        : context(size_t(units * pitch)),
          sums(size_t(units * heads)),
          max_score(size_t(units * heads), kMasked<T>) {}
};

// Adds one token to the pooling of one head of a unit.
template <typename T>
inline void pool_token(T score, const T* row, int64_t dim, T& max_score, double& sum, double* context) {
    if (!(score <= max_score)) {  // rescale the sums to the new maximum
        const double shrink = std::exp(double(max_score) - score);
        for (int64_t c = 0; c < dim; ++c) context[c] *= shrink;
        sum *= shrink;
        max_score = score;
    }
    // Both may be -inf, and their difference NaN.
    const double factor = score == kMasked<T> ? 0.0 : std::exp(double(score) - max_score);
    sum += factor;
    for (int64_t c = 0; c < dim; ++c) context[c] += row[c] * factor;
}

template <typename T, typename Stored>
PooledHeads<T> pool_heads(const Problem& p, const ScaledRows<T, Stored>& rows, const std::vector<T>& weight) {
    const int64_t pitch = rows.tokens.pitch, heads = p.heads, dim = p.head_dim;
    const TokenUnits units(p.batch, p.tokens);
    UnitPools<T> pools(units.count, heads, pitch);
    units.in_all_threads(p.threads, [&](int64_t unit, int64_t batch, int64_t token, int64_t end) {
        Scratch<T> scratch(pitch);
        T *const row = scratch.take(pitch), *const max_score = pools.max_score.data() + unit * heads;
        double *const context = pools.context.data() + unit * pitch, *const sum = pools.sums.data() + unit * heads;
        for (; token < end; ++token) {
            rows.read(row, batch, token);
            for (int64_t h = 0; h < heads; ++h) {
                const T score = dot(row, weight.data() + h * pitch, pitch);
                pool_token(score, row + h * dim, dim, max_score[h], sum[h], context + h * dim);
            }
        }
    });
    PooledHeads<T> pooled{std::vector<T>(size_t(p.batch * pitch)), {}, {}};
    for (int64_t i = 0; i < p.batch * heads; ++i) {
        const int64_t batch = i / heads, head = i % heads;
        const int64_t first = batch * units.per_entry, end = first + units.per_entry;
        T max_score = kMasked<T>;
        for (int64_t unit = first; unit < end; ++unit) {
            max_score = std::max(max_score, pools.max_score[size_t(unit * heads + head)]);
        }
        double sum = 0;
        std::vector<double> context(size_t(dim), 0.0);
        for (int64_t unit = first; unit < end; ++unit) {
            const double factor = std::exp(double(pools.max_score[size_t(unit * heads + head)] - max_score));
            sum += factor * pools.sums[size_t(unit * heads + head)];
            const double* const from = pools.context.data() + unit * pitch + head * dim;
            for (int64_t c = 0; c < dim; ++c) context[size_t(c)] += factor * from[c];
        }
        pooled.max_score.push_back(max_score);
        pooled.divisor.push_back(sum);
        for (int64_t c = 0; c < dim; ++c) {
            pooled.context[size_t(batch * pitch + head * dim + c)] = T(context[size_t(c)] / sum);
        }
    }
    return pooled;
}

template <typename T, typename Stored>
struct Inputs {
    const Problem& problem;
    TokenRows<T, const Stored> query, key;
    const T *query_weight, *key_weight;  // [nh, C]
};

template <typename T, typename Stored>
void forward(const Inputs<T, Stored>& in, TokenRows<T, Stored> out) {
    const Problem& p = in.problem;
    const int64_t pitch = in.query.pitch;
    const std::vector<T> query_weight = scaled_weight_rows(in.query_weight, p, pitch);
    const PooledHeads<T> query = pool_heads<T, Stored>(p, {in.query, nullptr}, query_weight);
    const std::vector<T> key_weight = scaled_weight_rows(in.key_weight, p, pitch);
    const PooledHeads<T> key = pool_heads<T, Stored>(p, {in.key, query.context.data()}, key_weight);
    const ScaledRows<T, Stored> products{in.query, key.context.data()};
    TokenUnits(p.batch, p.tokens).in_all_threads(p.threads, [&](int64_t, int64_t batch, int64_t token, int64_t end) {
        Scratch<T> scratch(pitch);
        T* const row = scratch.take(pitch);
        for (; token < end; ++token) {
            products.read(row, batch, token);
            out.write(row, batch, token);
        }
    });
}

// Sums over tokens, `size` numbers each: one partial sum per unit, added in a fixed order.
template <typename T>
struct UnitSums {
    TokenUnits units;
    int64_t size;
    std::vector<double> partial;

    UnitSums(const Problem& p, int64_t size)
        : units(p.batch, p.tokens),
          size(size),
          partial(size_t(units.count * size)) {}
    double* at(int64_t unit) { return partial.data() + unit * size; }
    std::vector<T> over_units(int64_t first, int64_t end) const {
        std::vector<T> sums;
        for (int64_t i = 0; i < size; ++i) {
            double sum = 0;
            for (int64_t unit = first; unit < end; ++unit) sum += partial[size_t(unit * size + i)];
            sums.push_back(T(sum));
        }
        return sums;
    }
    std::vector<T> per_entry(int64_t batch) const {
        std::vector<T> sums;
        for (int64_t entry = 0; entry < batch; ++entry) {
            const std::vector<T> one = over_units(entry * units.per_entry, (entry + 1) * units.per_entry);
            sums.insert(sums.end(), one.begin(), one.end());
        }
        return sums;
    }
    // Writes the sums of all units, [nh][pitch], to the gradient of a weight, [nh][C].
    void write_weight_grad(const Problem& p, int64_t pitch, T* to) const {
        const std::vector<T> all = over_units(0, units.count);
        const int64_t channels = p.channels();
        for (int64_t i = 0; i < p.heads * channels; ++i) to[i] = all[size_t(i / channels * pitch + i % channels)];
    }
};

// The backward pass of one pooling.
template <typename T>
struct PoolingBackward {
    const Problem& p;
    const PooledHeads<T>& pooled;
    const std::vector<T>&weight, &context_grad;  // [nh][pitch], [B][pitch]
    int64_t pitch;
    std::vector<T> not_finite;  // [B][nh]: 0, or NaN where the gradient of a head's context is not finite

    PoolingBackward(const Problem& p, const PooledHeads<T>& pooled, const std::vector<T>& weight,
                    const std::vector<T>& context_grad, int64_t pitch)
        : p(p),
          pooled(pooled),
          weight(weight),
          context_grad(context_grad),
          pitch(pitch) {
        for (int64_t i = 0; i < p.batch * p.heads; ++i) {
            const T* const grad = context_grad.data() + i / p.heads * pitch + i % p.heads * p.head_dim;
            not_finite.push_back(zero_or_nan(grad, p.head_dim));
        }
    }
    // Adds the pooling's gradients to those of a row and of the weight, [nh][pitch]. Inlined into both callers, it is
    // slower.
    __attribute__((noinline)) void add_token(int64_t batch, const T* row, T* grad, double* weight_grad) const {
        const int64_t dim = p.head_dim, heads = p.heads, pitch = this->pitch;
        const T* const weights = weight.data();
        const double scale = p.scale;
        const T *const context = pooled.context.data() + batch * pitch, *const out =
                                                                            context_grad.data() + batch * pitch;
        for (int64_t h = 0; h < heads; ++h) {
            const T score = dot(row, weights + h * pitch, pitch);
            const size_t at = size_t(batch * heads + h);
            const T token_weight = T(std::exp(double(score) - pooled.max_score[at]) / pooled.divisor[at]);
            // The gradient of the token's weight, minus its mean: exactly 0 if one token has all the weight.
            double token_weight_grad = not_finite[at];
            for (int64_t c = h * dim; c < (h + 1) * dim; ++c) {
                token_weight_grad += double(out[c]) * (row[c] - context[c]);
                grad[c] += out[c] * token_weight;
            }
            const double score_grad = token_weight * token_weight_grad;
            add_scaled(grad, weights + h * pitch, T(score_grad), pitch);
            for (int64_t c = 0; c < pitch; ++c) weight_grad[h * pitch + c] += row[c] * score_grad * scale;
        }
    }
};

template <typename T, typename Stored>
struct Grads {
    TokenRows<T, const Stored> out;
    TokenRows<T, Stored> query, key;
    T *query_weight, *key_weight;
};

// Returns the gradient of the pooled key products, [B][pitch]: the sum of queries times gradients of the output.
template <typename T, typename Stored>
std::vector<T> key_context_grad(const Inputs<T, Stored>& in, const Grads<T, Stored>& grads) {
    const Problem& p = in.problem;
    const int64_t pitch = in.query.pitch;
    UnitSums<T> sums(p, pitch);
    sums.units.in_all_threads(p.threads, [&](int64_t unit, int64_t batch, int64_t token, int64_t end) {
        Scratch<T> scratch(2 * pitch);
        T *const row = scratch.take(pitch), *const out = scratch.take(pitch);
        double* const sum = sums.at(unit);
        for (; token < end; ++token) {
            in.query.read(row, batch, token);
            grads.out.read(out, batch, token);
            for (int64_t c = 0; c < pitch; ++c) sum[c] += double(row[c]) * out[c];
        }
    });
    return sums.per_entry(p.batch);
}

// Writes the gradients of the keys and their weight; returns that of the pooled query, [B][pitch].
template <typename T, typename Stored>
std::vector<T> backward_key(const Inputs<T, Stored>& in, const Grads<T, Stored>& grads, const PooledHeads<T>& query,
                            const ScaledRows<T, Stored>& products, const PoolingBackward<T>& pooling) {
    const Problem& p = in.problem;
    const int64_t pitch = in.query.pitch;
    UnitSums<T> context_grads(p, pitch), weight_grads(p, p.heads * pitch);
    context_grads.units.in_all_threads(p.threads, [&](int64_t unit, int64_t batch, int64_t token, int64_t end) {
        Scratch<T> scratch(3 * pitch);
        T *const row = scratch.take(pitch), *const grad = scratch.take(pitch), *const key = scratch.take(pitch);
        double* const sum = context_grads.at(unit);
        const T* const context = query.context.data() + batch * pitch;
        for (; token < end; ++token) {
            products.read(row, batch, token);
            in.key.read(key, batch, token);
            std::fill(grad, grad + pitch, T(0));
            pooling.add_token(batch, row, grad, weight_grads.at(unit));
            for (int64_t c = 0; c < pitch; ++c) {
                sum[c] += double(grad[c]) * key[c];
                grad[c] *= context[c];
            }
            grads.key.write(grad, batch, token);
        }
    });
    weight_grads.write_weight_grad(p, pitch, grads.key_weight);
    return context_grads.per_entry(p.batch);
}

// Writes the gradients of the queries and their weight.
template <typename T, typename Stored>
void backward_query(const Inputs<T, Stored>& in, const Grads<T, Stored>& grads, const PooledHeads<T>& key,
                    const PoolingBackward<T>& pooling) {
    const Problem& p = in.problem;
    const int64_t pitch = in.query.pitch;
    UnitSums<T> weight_grads(p, p.heads * pitch);
    const ScaledRows<T, Stored> outs{grads.out, key.context.data()};
    weight_grads.units.in_all_threads(p.threads, [&](int64_t unit, int64_t batch, int64_t token, int64_t end) {
        Scratch<T> scratch(2 * pitch);
        T *const row = scratch.take(pitch), *const grad = scratch.take(pitch);
        for (; token < end; ++token) {
            in.query.read(row, batch, token);
            outs.read(grad, batch, token);
            pooling.add_token(batch, row, grad, weight_grads.at(unit));
            grads.query.write(grad, batch, token);
        }
    });
    weight_grads.write_weight_grad(p, pitch, grads.query_weight);
}

template <typename T, typename Stored>
void backward(const Inputs<T, Stored>& in, const Grads<T, Stored>& grads) {
    const Problem& p = in.problem;
    const int64_t pitch = in.query.pitch;
    const std::vector<T> query_weight = scaled_weight_rows(in.query_weight, p, pitch);
    const std::vector<T> key_weight = scaled_weight_rows(in.key_weight, p, pitch);
    const PooledHeads<T> query = pool_heads<T, Stored>(p, {in.query, nullptr}, query_weight);
    const ScaledRows<T, Stored> products{in.key, query.context.data()};
    const PooledHeads<T> key = pool_heads<T, Stored>(p, products, key_weight);
    const std::vector<T> key_grad = key_context_grad(in, grads);
    const PoolingBackward<T> key_pooling(p, key, key_weight, key_grad, pitch);
    const std::vector<T> query_grad = backward_key(in, grads, query, products, key_pooling);
    backward_query(in, grads, key, PoolingBackward<T>(p, query, query_weight, query_grad, pitch));
}

template <typename T, typename Stored>
TokenRows<T, Stored> rows(const Operand& operand, const Problem& p) {
    return TokenRows<T, Stored>(tensor<Stored>(operand, p.channels()));
}

template <typename T, typename Stored>
Inputs<T, Stored> inputs(const Problem& p, const Operand* o, const void* query_weight, const void* key_weight) {
    return {p, rows<T, const Stored>(o[0], p), rows<T, const Stored>(o[1], p), static_cast<const T*>(query_weight),
            static_cast<const T*>(key_weight)};
}

// Operands: query, key; the output, to write.
REGARD_EXPORT int regard_additive_forward(int64_t dtype, const Problem* problem, const Operand* o,
                                          const void* query_weight, const void* key_weight) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        forward<T, Stored>(inputs<T, Stored>(*problem, o, query_weight, key_weight), rows<T, Stored>(o[2], *problem));
    });
}

// Operands: query, key, gradient of the output; gradients of query and key, to write. The last two arguments are the
// gradients of the weights, to write.
REGARD_EXPORT int regard_additive_backward(int64_t dtype, const Problem* problem, const Operand* o,
                                           const void* query_weight, const void* key_weight, void* query_weight_grad,
                                           void* key_weight_grad) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        const Grads<T, Stored> grads{rows<T, const Stored>(o[2], *problem), rows<T, Stored>(o[3], *problem),
                                     rows<T, Stored>(o[4], *problem), static_cast<T*>(query_weight_grad),
                                     static_cast<T*>(key_weight_grad)};
        backward<T, Stored>(inputs<T, Stored>(*problem, o, query_weight, key_weight), grads);
    });
}

}  // namespace regard::additive
