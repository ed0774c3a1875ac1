// Efficient additive attention on the CPU, forward and backward: two passes over the tokens forward, one over the
// queries and one over the keys; three backward, which need no more than the inputs.
#include <cmath>

#include "../_native/tokens.h"

namespace regard {

enum TokenNorm : int64_t { kSoftmax, kL2, kOnes };

struct EfficientAdditiveProblem {
    int64_t batch, tokens, channels, threads, token_norm;
    double scale, smallest;  // factor on the scores; what norms are at least
};

template <typename T, typename Stored>
struct EfficientAdditiveInputs {
    const EfficientAdditiveProblem& problem;
    TokenRows<T, const Stored> query, key;
    const T* weight;  // [C]
};

// What brings a row to unit length.
template <typename T>
inline T length(const T* row, int64_t pitch, double smallest) {
    return std::max(std::sqrt(dot(row, row, pitch)), T(smallest));
}

// Brings a row to unit length; returns what it was divided by.
template <typename T>
inline T unit_length(T* row, int64_t pitch, double smallest) {
    const T norm = length(row, pitch, smallest);
    for (int64_t c = 0; c < pitch; c += kLanes<T>) store(row + c, load(row + c) / norm);
    return norm;
}

// The gradient of a row, given that of the row of unit length.
template <typename T>
void slope_of_length(T* slope, const T* unit, T norm, T smallest, int64_t pitch) {
    const T along = norm > smallest ? dot(slope, unit, pitch) : T(0);  // at the smallest norm the divisor is a constant
    for (int64_t c = 0; c < pitch; c += kLanes<T>) store(slope + c, (load(slope + c) - load(unit + c) * along) / norm);
}

// The pooled query of every batch entry, and what turns scores into weights.
template <typename T>
struct Pooled {
    int64_t pitch;
    std::vector<T> weight, context, highest, divisor;  // times the scale, [C]; [B][C], [B], [B]
    std::vector<double> exact;                         // the context, not rounded

    T weigh(int64_t norm, T score, int64_t batch) const {
        if (norm == kOnes) return 1;
        return norm == kL2 ? score / divisor[size_t(batch)]
                           : std::exp(score - highest[size_t(batch)]) / divisor[size_t(batch)];
    }
};

// The first pass: unit queries, written if wanted, and the context.
template <typename T, typename Stored>
Pooled<T> pool_queries(const EfficientAdditiveInputs<T, Stored>& in, const TokenRows<T, Stored>* unit_query) {
    const EfficientAdditiveProblem& p = in.problem;
    const int64_t pitch = in.query.pitch;
    const TokenUnits units(p.batch, p.tokens);
    std::vector<T> partial(size_t(units.count * pitch)), highest(size_t(units.count)), sums(size_t(units.count));
    Pooled<T> pooled{pitch, std::vector<T>(size_t(pitch)), {}, {}, {}, {}};
    // Scores must be the same bits wherever they are computed: were they scaled afterwards, the compiler might join
    // that product with a subtraction in one place only.
    for (int64_t c = 0; c < p.channels; ++c) pooled.weight[size_t(c)] = in.weight[c] * T(p.scale);
    T one = 1;  // every token's weight without scores, unless the vector is NaN or infinite
    for (int64_t c = 0; c < p.channels; ++c) one += T(0) * in.weight[c];
    units.in_all_threads(p.threads, [&](int64_t unit, int64_t batch, int64_t token, int64_t end) {
        Pieces<T> pieces(2 * pitch);
        T *const scratch = pieces.take(pitch), *const context = pieces.take(pitch);
        T most = kHidden<T>, sum = 0;
        for (; token < end; ++token) {
            const T* const query = in.query.row(scratch, batch, token);
            T* const row = unit_query ? unit_query->place(scratch, batch, token) : scratch;
            const T norm = length(query, pitch, p.smallest);
            Vector<T> product = splat(T(0));
            for (int64_t c = 0; c < pitch; c += kLanes<T>) {
                const Vector<T> unit = load(query + c) / norm;
                store(row + c, unit);
                product += unit * load(pooled.weight.data() + c);
            }
            if (unit_query) unit_query->finish(row, batch, token);
            const T score = p.token_norm == kOnes ? one : total<T>(product);
            T factor = score;
            if (p.token_norm == kSoftmax) {
                if (score > most) {  // what was added so far shrinks
                    const T shrink = std::exp(most - score);
                    for (int64_t c = 0; c < pitch; c += kLanes<T>) store(context + c, load(context + c) * shrink);
                    sum *= shrink;
                    most = score;
                }
                factor = score == kHidden<T> ? T(0) : std::exp(score - most);  // most may be hidden too
            }
            sum += p.token_norm == kL2 ? score * score : factor;
            add_scaled(context, row, factor, pitch);
        }
        std::copy(context, context + pitch, partial.begin() + unit * pitch);
        highest[size_t(unit)] = most;
        sums[size_t(unit)] = sum;
    });
    for (int64_t batch = 0; batch < p.batch; ++batch) {
        const size_t first = size_t(batch * units.of_entry), last = first + size_t(units.of_entry);
        const T most = *std::max_element(highest.begin() + first, highest.begin() + last);
        double sum = 0;
        std::vector<double> context(size_t(pitch), 0.0);
        for (size_t unit = first; unit < last; ++unit) {
            const double factor = p.token_norm == kSoftmax ? std::exp(double(highest[unit] - most)) : 1.0;
            sum += factor * sums[unit];
            for (int64_t c = 0; c < pitch; ++c) context[size_t(c)] += factor * partial[unit * pitch + c];
        }
        const T divisor = T(p.token_norm == kOnes ? 1.0
                            : p.token_norm == kL2 ? std::max(std::sqrt(sum), p.smallest)
                                                  : sum);
        pooled.highest.push_back(most);
        pooled.divisor.push_back(divisor);
        for (double value : context) pooled.exact.push_back(value / divisor);
    }
    pooled.context.assign(pooled.exact.begin(), pooled.exact.end());
    return pooled;
}

template <typename T, typename Stored>
void efficient_additive_forward(const EfficientAdditiveInputs<T, Stored>& in, TokenRows<T, Stored> out,
                                TokenRows<T, Stored> unit_query) {
    const EfficientAdditiveProblem& p = in.problem;
    const Pooled<T> pooled = pool_queries(in, &unit_query);
    TokenUnits(p.batch, p.tokens).in_all_threads(p.threads, [&](int64_t, int64_t batch, int64_t token, int64_t end) {
        Pieces<T> pieces(pooled.pitch);
        T* const scratch = pieces.take(pooled.pitch);
        const T* const context = pooled.context.data() + batch * pooled.pitch;
        for (; token < end; ++token) {
            const T* const key = in.key.row(scratch, batch, token);
            T* const row = out.place(scratch, batch, token);
            const T norm = length(key, pooled.pitch, p.smallest);
            for (int64_t c = 0; c < pooled.pitch; c += kLanes<T>)
                store(row + c, load(key + c) / norm * load(context + c));
            out.finish(row, batch, token);
        }
    });
}

template <typename T, typename Stored>
struct EfficientAdditiveGradients {
    TokenRows<T, const Stored> out, unit_query;
    TokenRows<T, Stored> query, key;
    T* weight;
};

// The second pass: gradients of the keys, and of the context, [B][C].
template <typename T, typename Stored>
std::vector<T> slopes_of_keys(const EfficientAdditiveInputs<T, Stored>& in,
                              const EfficientAdditiveGradients<T, Stored>& gradients, const Pooled<T>& pooled) {
    const EfficientAdditiveProblem& p = in.problem;
    const int64_t pitch = pooled.pitch;
    const TokenUnits units(p.batch, p.tokens);
    std::vector<T> partial(size_t(units.count * pitch)), slopes(size_t(p.batch * pitch));
    units.in_all_threads(p.threads, [&](int64_t unit, int64_t batch, int64_t token, int64_t end) {
        Pieces<T> pieces(3 * pitch);
        T *const key = pieces.take(pitch), *const slope = pieces.take(pitch), *const sum = pieces.take(pitch);
        const T* const context = pooled.context.data() + batch * pitch;
        for (; token < end; ++token) {
            in.key.read(key, batch, token);
            gradients.out.read(slope, batch, token);
            const T norm = unit_length(key, pitch, p.smallest);
            for (int64_t c = 0; c < pitch; c += kLanes<T>) {
                store(sum + c, load(sum + c) + load(slope + c) * load(key + c));
                store(slope + c, load(slope + c) * load(context + c));
            }
            slope_of_length(slope, key, norm, T(p.smallest), pitch);
            gradients.key.write(slope, batch, token);
        }
        std::copy(sum, sum + pitch, partial.begin() + unit * pitch);
    });
    for (int64_t i = 0; i < p.batch * pitch; ++i) {
        double sum = 0;
        for (int64_t unit = 0; unit < units.of_entry; ++unit)
            sum += partial[size_t((i / pitch * units.of_entry + unit) * pitch + i % pitch)];
        slopes[size_t(i)] = T(sum);
    }
    return slopes;
}

// The third pass: gradients of the queries and of the scoring vector.
template <typename T, typename Stored>
void efficient_additive_backward(const EfficientAdditiveInputs<T, Stored>& in,
                                 const EfficientAdditiveGradients<T, Stored>& gradients) {
    const EfficientAdditiveProblem& p = in.problem;
    const Pooled<T> pooled = pool_queries<T, Stored>(in, nullptr);
    const std::vector<T> context_slopes = slopes_of_keys(in, gradients, pooled);
    const int64_t pitch = pooled.pitch;
    const TokenUnits units(p.batch, p.tokens);
    std::vector<T> partial(size_t(units.count * pitch));
    units.in_all_threads(p.threads, [&](int64_t unit, int64_t batch, int64_t token, int64_t end) {
        Pieces<T> pieces(3 * pitch);
        T *const query = pieces.take(pitch), *const slope = pieces.take(pitch),
                 *const weight_slope = pieces.take(pitch);
        const T *const weight = pooled.weight.data(), *const context_slope = context_slopes.data() + batch * pitch;
        // The mean of the weights' gradients. Those of the scores sum to 0: rounding must not spoil it where one token
        // has all the weight, nor where the squares of the weights sum to 1.
        double mean = dot(context_slope, pooled.context.data() + batch * pitch, pitch);
        if (p.token_norm == kL2) {
            mean = 0;
            for (int64_t c = 0; c < pitch; ++c) mean += context_slope[c] * pooled.exact[size_t(batch * pitch + c)];
        }
        const T divisor = pooled.divisor[size_t(batch)];
        for (; token < end; ++token) {
            in.query.read(query, batch, token);
            gradients.unit_query.read(slope, batch, token);
            const T norm = unit_length(query, pitch, p.smallest), score = dot(query, weight, pitch);
            const T share = pooled.weigh(p.token_norm, score, batch), share_slope = dot(context_slope, query, pitch);
            T score_slope = 0;
            if (p.token_norm == kSoftmax) score_slope = share * (share_slope - T(mean));
            if (p.token_norm == kL2)
                score_slope = (share_slope - (divisor > T(p.smallest) ? share * T(mean) : T(0))) / divisor;
            const T scaled = score_slope * T(p.scale);
            for (int64_t c = 0; c < pitch; c += kLanes<T>) {
                store(weight_slope + c, load(weight_slope + c) + load(query + c) * scaled);
                store(slope + c, load(slope + c) + load(context_slope + c) * share + load(weight + c) * score_slope);
            }
            slope_of_length(slope, query, norm, T(p.smallest), pitch);
            gradients.query.write(slope, batch, token);
        }
        std::copy(weight_slope, weight_slope + pitch, partial.begin() + unit * pitch);
    });
    for (int64_t c = 0; c < p.channels; ++c) {
        double sum = 0;
        for (int64_t unit = 0; unit < units.count; ++unit) sum += partial[size_t(unit * pitch + c)];
        gradients.weight[c] = T(sum);
    }
}

}  // namespace regard

namespace {

using namespace regard;

template <typename T, typename Stored>
TokenRows<T, Stored> rows(const Operand& operand, int64_t channels) {
    return TokenRows<T, Stored>(tensor<Stored>(operand, channels));
}

template <typename T, typename Stored>
EfficientAdditiveInputs<T, Stored> inputs(const EfficientAdditiveProblem& p, const Operand* o, const void* weight) {
    return {p, rows<T, const Stored>(o[0], p.channels), rows<T, const Stored>(o[1], p.channels),
            static_cast<const T*>(weight)};
}

}  // namespace

// operands: query, key; out and unit queries to write.
REGARD_EXPORT int regard_efficient_additive_forward(int64_t dtype, const EfficientAdditiveProblem* problem,
                                                    const Operand* o, const void* weight) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        efficient_additive_forward<T, Stored>(inputs<T, Stored>(*problem, o, weight),
                                              rows<T, Stored>(o[2], problem->channels),
                                              rows<T, Stored>(o[3], problem->channels));
    });
}

// operands: query, key, gradients of out and of the unit queries; gradients of query and key to write.
REGARD_EXPORT int regard_efficient_additive_backward(int64_t dtype, const EfficientAdditiveProblem* problem,
                                                     const Operand* o, const void* weight, void* weight_gradient) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        const int64_t channels = problem->channels;
        const EfficientAdditiveGradients<T, Stored> gradients{
            rows<T, const Stored>(o[2], channels), rows<T, const Stored>(o[3], channels),
            rows<T, Stored>(o[4], channels), rows<T, Stored>(o[5], channels), static_cast<T*>(weight_gradient)};
        efficient_additive_backward<T, Stored>(inputs<T, Stored>(*problem, o, weight), gradients);
    });
}
