// Efficient additive attention on the CPU, forward and backward. The forward pass goes over the queries once and over
// the keys once. The backward pass goes over the tokens three times and needs only the inputs.
#include <cmath>

#include "../../native/tokens.h"

namespace regard::efficient_additive {

enum TokenNorm : int64_t { kSoftmax, kL2, kOnes };

struct Problem {
    int64_t batch, tokens, channels, threads, token_norm;
    double scale, min_norm;  // factor on the scores; lower bound of norms
};

template <typename T, typename Stored>
struct Inputs {
    const Problem& problem;
    TokenRows<T, const Stored> query, key;
    const T* weight;  // [C]
};

// Returns the norm of a row, at least `min_norm`.
template <typename T>
inline T clamped_norm(const T* row, int64_t pitch, double min_norm) {
    return std::max(std::sqrt(dot(row, row, pitch)), T(min_norm));
}

// Divides a row by its norm, and returns the norm.
template <typename T>
inline T normalize(T* row, int64_t pitch, double min_norm) {
    const T norm = clamped_norm(row, pitch, min_norm);
    for (int64_t c = 0; c < pitch; c += kLanes<T>) store(row + c, load(row + c) / norm);
    return norm;
}

// Turns the gradient of a unit row into that of the row before normalization.
template <typename T>
void normalize_backward(T* grad, const T* unit, T norm, T min_norm, int64_t pitch) {
    const T along = norm > min_norm ? dot(grad, unit, pitch) : T(0);  // a clamped norm is a constant
    for (int64_t c = 0; c < pitch; c += kLanes<T>) store(grad + c, (load(grad + c) - load(unit + c) * along) / norm);
}

// Returns the sum of absolute values, a bound on the dot product with any unit row.
template <typename T>
inline T sum_of_magnitudes(const T* values, int64_t count) {
    T sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += std::abs(values[i]);
    return sum;
}

// The pooled query of every batch entry, and the statistics that turn scores into weights.
template <typename T>
struct Pooled {
    int64_t pitch;
    std::vector<T> weight, context, max_score, divisor;  // [C], times the scale; [B][C], [B], [B]
    std::vector<double> exact;                           // the context before rounding
    bool has_finite_weight = false;

    // The weight of a unit row with `token_norm="ones"`: 1, or NaN if the score is not finite, as the softmax of one
    // score.
    T one_or_nan(const T* row, T norm) const {
        if (has_finite_weight && std::isfinite(norm)) return 1;
        return dot(row, weight.data(), pitch) * T(0) + T(1);
    }
    T token_weight(int64_t token_norm, const T* row, T norm, int64_t batch) const {
        if (token_norm == kOnes) return one_or_nan(row, norm);
        const T score = dot(row, weight.data(), pitch);
        if (token_norm == kL2) return score / divisor[size_t(batch)];
        return std::exp(score - max_score[size_t(batch)]) / divisor[size_t(batch)];
    }
};

// The pooling of every unit of tokens: unnormalized sums, relative to the unit's maximum score for the softmax.
template <typename T>
struct UnitPools {
    std::vector<T> context, max_score, sums;

    UnitPools(int64_t units, int64_t pitch)
        : context(size_t(units * pitch)),
          max_score(size_t(units), kMasked<T>),
          sums(size_t(units)) {}
};

// Returns a token's factor in the softmax pooling of its unit, and rescales the unit's sums to a new maximum.
template <typename T>
inline T softmax_factor(T score, T& max_score, T& sum, T* context, int64_t pitch) {
    if (score > max_score) {
        const T shrink = std::exp(max_score - score);
        for (int64_t c = 0; c < pitch; c += kLanes<T>) store(context + c, load(context + c) * shrink);
        sum *= shrink;
        max_score = score;
    }
    return score == kMasked<T> ? T(0) : std::exp(score - max_score);  // both may be -inf, and their difference NaN
}

// Adds the pools of every batch entry's units, in their order, and divides by the norm of the weights.
template <typename T>
void join_pools(const Problem& p, const TokenUnits& units, const UnitPools<T>& pools, Pooled<T>& pooled) {
    const int64_t pitch = pooled.pitch;
    for (int64_t batch = 0; batch < p.batch; ++batch) {
        const size_t first = size_t(batch * units.per_entry), end = first + size_t(units.per_entry);
        const T max_score = *std::max_element(pools.max_score.begin() + first, pools.max_score.begin() + end);
        double sum = 0;
        std::vector<double> context(size_t(pitch), 0.0);
        for (size_t unit = first; unit < end; ++unit) {
            const double factor = p.token_norm == kSoftmax ? std::exp(double(pools.max_score[unit] - max_score)) : 1.0;
            sum += factor * pools.sums[unit];
            for (int64_t c = 0; c < pitch; ++c) context[size_t(c)] += factor * pools.context[unit * pitch + c];
        }
        double divisor = sum;
        if (p.token_norm == kOnes) divisor = 1;
        if (p.token_norm == kL2) divisor = std::max(std::sqrt(sum), p.min_norm);
        pooled.max_score.push_back(max_score);
        pooled.divisor.push_back(T(divisor));
        for (double value : context) pooled.exact.push_back(value / T(divisor));
    }
    pooled.context.assign(pooled.exact.begin(), pooled.exact.end());
}

// The first pass: computes the context, and writes the unit queries if `unit_query` is not null.
template <typename T, typename Stored>
Pooled<T> pool_queries(const Inputs<T, Stored>& in, const TokenRows<T, Stored>* unit_query) {
    const Problem& p = in.problem;
    const int64_t pitch = in.query.pitch;
    const TokenUnits units(p.batch, p.tokens);
    UnitPools<T> pools(units.count, pitch);
    Pooled<T> pooled{pitch, std::vector<T>(size_t(pitch)), {}, {}, {}, {}, false};
    // Every pass must compute the same bits for a score. If the score were scaled afterwards, the compiler could fuse
    // that product with a subtraction in one pass only.
    for (int64_t c = 0; c < p.channels; ++c) pooled.weight[size_t(c)] = in.weight[c] * T(p.scale);
    pooled.has_finite_weight = std::isfinite(sum_of_magnitudes(pooled.weight.data(), pitch));
    units.in_all_threads(p.threads, [&](int64_t unit, int64_t batch, int64_t token, int64_t end) {
        Scratch<T> scratch(2 * pitch);
        T *const buffer = scratch.take(pitch), *const context = scratch.take(pitch);
        T max_score = kMasked<T>, sum = 0;
        for (; token < end; ++token) {
            const T* const query = in.query.row(buffer, batch, token);
            T* const row = unit_query ? unit_query->place(buffer, batch, token) : buffer;
            const T norm = clamped_norm(query, pitch, p.min_norm);
            Vector<T> products = splat(T(0));
            for (int64_t c = 0; c < pitch; c += kLanes<T>) {
                const Vector<T> values = load(query + c) / norm;
                store(row + c, values);
                products += values * load(pooled.weight.data() + c);
            }
            if (unit_query) unit_query->finish(row, batch, token);
            T factor = p.token_norm == kOnes ? pooled.one_or_nan(row, norm) : sum_lanes<T>(products);
            if (p.token_norm == kSoftmax) factor = softmax_factor(factor, max_score, sum, context, pitch);
            sum += p.token_norm == kL2 ? factor * factor : factor;
            add_scaled(context, row, factor, pitch);
        }
        std::copy(context, context + pitch, pools.context.begin() + unit * pitch);
        pools.max_score[size_t(unit)] = max_score;
        pools.sums[size_t(unit)] = sum;
    });
    join_pools(p, units, pools, pooled);
    return pooled;
}

template <typename T, typename Stored>
void forward(const Inputs<T, Stored>& in, TokenRows<T, Stored> out, TokenRows<T, Stored> unit_query) {
    const Problem& p = in.problem;
    const Pooled<T> pooled = pool_queries(in, &unit_query);
    const int64_t pitch = pooled.pitch;
    TokenUnits(p.batch, p.tokens).in_all_threads(p.threads, [&](int64_t, int64_t batch, int64_t token, int64_t end) {
        Scratch<T> scratch(pitch);
        T* const buffer = scratch.take(pitch);
        const T* const context = pooled.context.data() + batch * pitch;
        for (; token < end; ++token) {
            const T* const key = in.key.row(buffer, batch, token);
            T* const row = out.place(buffer, batch, token);
            const T norm = clamped_norm(key, pitch, p.min_norm);
            for (int64_t c = 0; c < pitch; c += kLanes<T>) store(row + c, load(key + c) / norm * load(context + c));
            out.finish(row, batch, token);
        }
    });
}

template <typename T, typename Stored>
struct Grads {
    TokenRows<T, const Stored> out, unit_query;
    TokenRows<T, Stored> query, key;
    T* weight;
};

// The second pass: writes the gradients of the keys, and returns that of the context, [B][C].
template <typename T, typename Stored>
std::vector<T> backward_key(const Inputs<T, Stored>& in, const Grads<T, Stored>& grads, const Pooled<T>& pooled) {
    const Problem& p = in.problem;
    const int64_t pitch = pooled.pitch;
    const TokenUnits units(p.batch, p.tokens);
    std::vector<T> partial(size_t(units.count * pitch)), context_grads(size_t(p.batch * pitch));
    units.in_all_threads(p.threads, [&](int64_t unit, int64_t batch, int64_t token, int64_t end) {
        Scratch<T> scratch(3 * pitch);
        T *const key = scratch.take(pitch), *const grad = scratch.take(pitch), *const sum = scratch.take(pitch);
        const T* const context = pooled.context.data() + batch * pitch;
        for (; token < end; ++token) {
            in.key.read(key, batch, token);
            grads.out.read(grad, batch, token);
            const T norm = normalize(key, pitch, p.min_norm);
            for (int64_t c = 0; c < pitch; c += kLanes<T>) {
                store(sum + c, load(sum + c) + load(grad + c) * load(key + c));
                store(grad + c, load(grad + c) * load(context + c));
            }
            normalize_backward(grad, key, norm, T(p.min_norm), pitch);
            grads.key.write(grad, batch, token);
        }
        std::copy(sum, sum + pitch, partial.begin() + unit * pitch);
    });
    for (int64_t i = 0; i < p.batch * pitch; ++i) {
        const int64_t first = i / pitch * units.per_entry;
        double sum = 0;
        for (int64_t unit = first; unit < first + units.per_entry; ++unit)
            sum += partial[size_t(unit * pitch + i % pitch)];
        context_grads[size_t(i)] = T(sum);
    }
    return context_grads;
}

// The gradients of one batch entry's scores, from those of its token weights.
template <typename T>
struct ScoreGrads {
    int64_t token_norm;
    T divisor, min_norm;
    // The weighted mean of the token weights' gradients. The gradients of the scores sum to 0, also in rounded numbers,
    // if one token has all the weight, or if the squares of the weights sum to 1.
    double mean = 0;
    const T* context_grad;
    int64_t pitch;
    bool has_finite_grad;

    ScoreGrads(const Problem& p, const Pooled<T>& pooled, const T* context_grad, int64_t batch)
        : token_norm(p.token_norm),
          divisor(pooled.divisor[size_t(batch)]),
          min_norm(T(p.min_norm)),
          context_grad(context_grad),
          pitch(pooled.pitch),
          has_finite_grad(std::isfinite(sum_of_magnitudes(context_grad, pooled.pitch))) {
        const size_t first = size_t(batch * pooled.pitch);
        if (token_norm == kSoftmax) mean = dot(context_grad, pooled.context.data() + first, pooled.pitch);
        for (int64_t c = 0; token_norm == kL2 && c < pooled.pitch; ++c) {
            mean += context_grad[c] * pooled.exact[first + size_t(c)];
        }
    }
    // Returns the gradient of the score of a unit row.
    T of(const T* row, T norm, T token_weight) const {
        // The weight is constant with "ones". The definition yields NaN if the weight's gradient is not finite.
        if (token_norm == kOnes && has_finite_grad && std::isfinite(norm)) return token_weight * T(0);
        const T token_weight_grad = dot(context_grad, row, pitch);
        if (token_norm == kOnes) return token_weight * token_weight_grad * T(0);
        if (token_norm == kSoftmax) return token_weight * (token_weight_grad - T(mean));
        return (token_weight_grad - (divisor > min_norm ? token_weight * T(mean) : T(0))) / divisor;
    }
};

// The third pass: writes the gradients of the queries and of the weight.
template <typename T, typename Stored>
void backward(const Inputs<T, Stored>& in, const Grads<T, Stored>& grads) {
    const Problem& p = in.problem;
    const Pooled<T> pooled = pool_queries<T, Stored>(in, nullptr);
    const std::vector<T> context_grads = backward_key(in, grads, pooled);
    const int64_t pitch = pooled.pitch;
    const TokenUnits units(p.batch, p.tokens);
    std::vector<T> partial(size_t(units.count * pitch));
    units.in_all_threads(p.threads, [&](int64_t unit, int64_t batch, int64_t token, int64_t end) {
        Scratch<T> scratch(3 * pitch);
        T *const query = scratch.take(pitch), *const grad = scratch.take(pitch);
        T* const weight_grad = scratch.take(pitch);
        const T *const weight = pooled.weight.data(), *const context_grad = context_grads.data() + batch * pitch;
        const ScoreGrads<T> score_grads(p, pooled, context_grad, batch);
        for (; token < end; ++token) {
            in.query.read(query, batch, token);
            grads.unit_query.read(grad, batch, token);
            const T norm = normalize(query, pitch, p.min_norm);
            const T token_weight = pooled.token_weight(p.token_norm, query, norm, batch);
            const T score_grad = score_grads.of(query, norm, token_weight);
            const T scaled = score_grad * T(p.scale);
            for (int64_t c = 0; c < pitch; c += kLanes<T>) {
                store(weight_grad + c, load(weight_grad + c) + load(query + c) * scaled);
                store(grad + c, load(grad + c) + load(context_grad + c) * token_weight + load(weight + c) * score_grad);
            }
            normalize_backward(grad, query, norm, T(p.min_norm), pitch);
            grads.query.write(grad, batch, token);
        }
        std::copy(weight_grad, weight_grad + pitch, partial.begin() + unit * pitch);
    });
    for (int64_t c = 0; c < p.channels; ++c) {
        double sum = 0;
        for (int64_t unit = 0; unit < units.count; ++unit) sum += partial[size_t(unit * pitch + c)];
        grads.weight[c] = T(sum);
    }
}

template <typename T, typename Stored>
TokenRows<T, Stored> rows(const Operand& operand, const Problem& p) {
    return TokenRows<T, Stored>(tensor<Stored>(operand, p.channels));
}

template <typename T, typename Stored>
Inputs<T, Stored> inputs(const Problem& p, const Operand* o, const void* weight) {
    return {p, rows<T, const Stored>(o[0], p), rows<T, const Stored>(o[1], p), static_cast<const T*>(weight)};
}

// Operands: query, key; the output and the unit queries, to write.
REGARD_EXPORT int regard_efficient_additive_forward(int64_t dtype, const Problem* problem, const Operand* o,
                                                    const void* weight) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        forward<T, Stored>(inputs<T, Stored>(*problem, o, weight), rows<T, Stored>(o[2], *problem),
                           rows<T, Stored>(o[3], *problem));
    });
}

// Operands: query, key, gradients of the output and of the unit queries; gradients of query and key, to write. The last
// argument is the gradient of the weight, to write.
REGARD_EXPORT int regard_efficient_additive_backward(int64_t dtype, const Problem* problem, const Operand* o,
                                                     const void* weight, void* weight_grad) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        const Grads<T, Stored> grads{rows<T, const Stored>(o[2], *problem), rows<T, const Stored>(o[3], *problem),
                                     rows<T, Stored>(o[4], *problem), rows<T, Stored>(o[5], *problem),
                                     static_cast<T*>(weight_grad)};
        backward<T, Stored>(inputs<T, Stored>(*problem, o, weight), grads);
    });
}

}  // namespace regard::efficient_additive
