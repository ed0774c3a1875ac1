// Additive attention on the CPU, forward and backward, over tokens [B, N, C] of nh heads side by side. Two poolings of
// one form, of the queries and of keys times the pooled query; each pass over the tokens reads them once. The scores'
// biases are the same for all tokens and cancel in the softmax.
#include <cmath>

#include "../_native/tokens.h"

namespace regard {

struct AdditiveProblem {
    int64_t batch, tokens, heads, head_dim, threads;
    double scale;

    int64_t channels() const { return heads * head_dim; }
};

// The pooled tokens of every batch entry, and what turns scores into weights: [B][C], [B][nh], [B][nh].
template <typename T>
struct PooledHeads {
    std::vector<T> context, highest;
    std::vector<double> divisor;
};

// Rows of one pooling: tokens, times a vector where there is one.
template <typename T, typename Stored>
struct Factored {
    TokenRows<T, const Stored> tokens;
    const T* factors;  // [B][pitch], or null

    void read(T* row, int64_t batch, int64_t token) const {
        tokens.read(row, batch, token);
        if (!factors) return;
        const T* const factor = factors + batch * tokens.pitch;
        for (int64_t c = 0; c < tokens.pitch; c += kLanes<T>) store(row + c, load(row + c) * load(factor + c));
    }
};

// A weight per head, [nh][C], times the scale, as rows of whole vectors. Scores must be the same bits wherever they are
// computed: were they scaled afterwards, the compiler might join that product with a subtraction in one place only.
template <typename T>
std::vector<T> rows_of_heads(const T* weight, const AdditiveProblem& p, int64_t pitch) {
    std::vector<T> rows(size_t(p.heads * pitch));
    for (int64_t head = 0; head < p.heads; ++head) {
        for (int64_t c = 0; c < p.channels(); ++c)
            rows[size_t(head * pitch + c)] = weight[head * p.channels() + c] * T(p.scale);
    }
    return rows;
}

template <typename T, typename Stored>
PooledHeads<T> pool_heads(const AdditiveProblem& p, const Factored<T, Stored>& rows, const std::vector<T>& weight) {
    const int64_t pitch = rows.tokens.pitch, heads = p.heads, dim = p.head_dim;
    const TokenUnits units(p.batch, p.tokens);
    std::vector<double> partial(size_t(units.count * pitch)), sums(size_t(units.count * heads));
    std::vector<T> highest(size_t(units.count * heads));
    units.in_all_threads(p.threads, [&](int64_t unit, int64_t batch, int64_t token, int64_t end) {
        Pieces<T> pieces(pitch);
        T *const row = pieces.take(pitch), *const most = highest.data() + unit * heads;
        double *const context = partial.data() + unit * pitch, *const sum = sums.data() + unit * heads;
        std::fill(most, most + heads, kHidden<T>);
        for (; token < end; ++token) {
            rows.read(row, batch, token);
            for (int64_t h = 0; h < heads; ++h) {
                const T score = dot(row, weight.data() + h * pitch, pitch);
                double* const mine = context + h * dim;
                const T* const here = row + h * dim;
                if (!(score <= most[h])) {  // what was added so far shrinks
                    const double shrink = std::exp(double(most[h]) - score);
                    for (int64_t c = 0; c < dim; ++c) mine[c] *= shrink;
                    sum[h] *= shrink;
                    most[h] = score;
                }
                const double factor =
                    score == kHidden<T> ? 0.0 : std::exp(double(score) - most[h]);  // most may be hidden too
                sum[h] += factor;
                for (int64_t c = 0; c < dim; ++c) mine[c] += here[c] * factor;
            }
        }
    });
    PooledHeads<T> pooled{std::vector<T>(size_t(p.batch * pitch)), {}, {}};
    for (int64_t i = 0; i < p.batch * heads; ++i) {
        const int64_t batch = i / heads, head = i % heads, first = batch * units.of_entry,
                      last = first + units.of_entry;
        T most = kHidden<T>;
        for (int64_t unit = first; unit < last; ++unit) most = std::max(most, highest[size_t(unit * heads + head)]);
        double sum = 0;
        std::vector<double> context(size_t(dim), 0.0);
        for (int64_t unit = first; unit < last; ++unit) {
            const double factor = std::exp(double(highest[size_t(unit * heads + head)] - most));
            sum += factor * sums[size_t(unit * heads + head)];
            for (int64_t c = 0; c < dim; ++c)
                context[size_t(c)] += factor * partial[size_t(unit * pitch + head * dim + c)];
        }
        pooled.highest.push_back(most);
        pooled.divisor.push_back(sum);
        for (int64_t c = 0; c < dim; ++c)
            pooled.context[size_t(batch * pitch + head * dim + c)] = T(context[size_t(c)] / sum);
    }
    return pooled;
}

template <typename T, typename Stored>
struct AdditiveInputs {
    const AdditiveProblem& problem;
    TokenRows<T, const Stored> query, key;
    const T *query_weight, *key_weight;  // [nh, C]
};

template <typename T, typename Stored>
void additive_forward(const AdditiveInputs<T, Stored>& in, TokenRows<T, Stored> out) {
    const AdditiveProblem& p = in.problem;
    const int64_t pitch = in.query.pitch;
    const PooledHeads<T> query =
        pool_heads<T, Stored>(p, {in.query, nullptr}, rows_of_heads(in.query_weight, p, pitch));
    const PooledHeads<T> key =
        pool_heads<T, Stored>(p, {in.key, query.context.data()}, rows_of_heads(in.key_weight, p, pitch));
    const Factored<T, Stored> products{in.query, key.context.data()};
    TokenUnits(p.batch, p.tokens).in_all_threads(p.threads, [&](int64_t, int64_t batch, int64_t token, int64_t end) {
        Pieces<T> pieces(pitch);
        T* const row = pieces.take(pitch);
        for (; token < end; ++token) {
            products.read(row, batch, token);
            out.write(row, batch, token);
        }
    });
}

// Sums over tokens of one size a unit, added up in one order.
template <typename T>
struct UnitSums {
    TokenUnits units;
    int64_t size;
    std::vector<double> partial;

    UnitSums(const AdditiveProblem& p, int64_t size)
        : units(p.batch, p.tokens),
          size(size),
          partial(size_t(units.count * size)) {}
    double* at(int64_t unit) { return partial.data() + unit * size; }
    std::vector<T> of(int64_t first, int64_t last) const {  // of units [first, last)
        std::vector<T> sums;
        for (int64_t i = 0; i < size; ++i) {
            double sum = 0;
            for (int64_t unit = first; unit < last; ++unit) sum += partial[size_t(unit * size + i)];
            sums.push_back(T(sum));
        }
        return sums;
    }
    std::vector<T> of_entries(int64_t batch) const {
        std::vector<T> sums;
        for (int64_t entry = 0; entry < batch; ++entry) {
            const std::vector<T> one = of(entry * units.of_entry, (entry + 1) * units.of_entry);
            sums.insert(sums.end(), one.begin(), one.end());
        }
        return sums;
    }
};

// Adds to a row's gradient what the pooling gives it, and to the weight's gradient, [nh][pitch].
template <typename T>
void slope_of_pooling(const AdditiveProblem& p, const PooledHeads<T>& pooled, const std::vector<T>& weight,
                      const T* context_slope, int64_t batch, int64_t pitch, const T* row, T* slope,
                      double* weight_slope) {
    const int64_t dim = p.head_dim;
    const T* const context = pooled.context.data() + batch * pitch;
    for (int64_t h = 0; h < p.heads; ++h) {
        const T score = dot(row, weight.data() + h * pitch, pitch);
        const size_t at = size_t(batch * p.heads + h);
        const T share = T(std::exp(double(score) - pooled.highest[at]) / pooled.divisor[at]);
        double share_slope = 0;  // less its mean: exactly 0 where one token has all the weight
        for (int64_t c = h * dim; c < (h + 1) * dim; ++c) {
            share_slope += double(context_slope[c]) * (row[c] - context[c]);
            slope[c] += context_slope[c] * share;
        }
        const double score_slope = share * share_slope;
        add_scaled(slope, weight.data() + h * pitch, T(score_slope), pitch);
        for (int64_t c = 0; c < pitch; ++c) weight_slope[h * pitch + c] += row[c] * score_slope * p.scale;
    }
}

template <typename T, typename Stored>
struct AdditiveGradients {
    TokenRows<T, const Stored> out;
    TokenRows<T, Stored> query, key;
    T *query_weight, *key_weight;
};

template <typename T>
void write_weight(const UnitSums<T>& sums, const AdditiveProblem& p, int64_t pitch, T* to) {
    const std::vector<T> all = sums.of(0, sums.units.count);
    for (int64_t i = 0; i < p.heads * p.channels(); ++i)
        to[i] = all[size_t(i / p.channels() * pitch + i % p.channels())];
}

template <typename T, typename Stored>
void additive_backward(const AdditiveInputs<T, Stored>& in, const AdditiveGradients<T, Stored>& gradients) {
    const AdditiveProblem& p = in.problem;
    const int64_t pitch = in.query.pitch;
    const std::vector<T> query_weight = rows_of_heads(in.query_weight, p, pitch),
                         key_weight = rows_of_heads(in.key_weight, p, pitch);
    const PooledHeads<T> query = pool_heads<T, Stored>(p, {in.query, nullptr}, query_weight);
    const Factored<T, Stored> products{in.key, query.context.data()};
    const PooledHeads<T> key = pool_heads<T, Stored>(p, products, key_weight);
    UnitSums<T> key_slopes(p, pitch), query_slopes(p, pitch), key_weights(p, p.heads * pitch),
        query_weights(p, p.heads * pitch);
    key_slopes.units.in_all_threads(p.threads, [&](int64_t unit, int64_t batch, int64_t token, int64_t end) {
        Pieces<T> pieces(2 * pitch);
        T *const row = pieces.take(pitch), *const out = pieces.take(pitch);
        double* const sum = key_slopes.at(unit);
        for (; token < end; ++token) {
            in.query.read(row, batch, token);
            gradients.out.read(out, batch, token);
            for (int64_t c = 0; c < pitch; ++c) sum[c] += double(row[c]) * out[c];
        }
    });
    const std::vector<T> key_slope = key_slopes.of_entries(p.batch);
    query_slopes.units.in_all_threads(p.threads, [&](int64_t unit, int64_t batch, int64_t token, int64_t end) {
        Pieces<T> pieces(3 * pitch);
        T *const row = pieces.take(pitch), *const slope = pieces.take(pitch), *const own = pieces.take(pitch);
        double* const sum = query_slopes.at(unit);
        const T* const context = query.context.data() + batch * pitch;
        for (; token < end; ++token) {
            products.read(row, batch, token);
            in.key.read(own, batch, token);
            std::fill(slope, slope + pitch, T(0));
            slope_of_pooling(p, key, key_weight, key_slope.data() + batch * pitch, batch, pitch, row, slope,
                             key_weights.at(unit));
            for (int64_t c = 0; c < pitch; ++c) {
                sum[c] += double(slope[c]) * own[c];
                slope[c] *= context[c];
            }
            gradients.key.write(slope, batch, token);
        }
    });
    const std::vector<T> query_slope = query_slopes.of_entries(p.batch);
    const Factored<T, Stored> outs{gradients.out, key.context.data()};
    query_slopes.units.in_all_threads(p.threads, [&](int64_t unit, int64_t batch, int64_t token, int64_t end) {
        Pieces<T> pieces(2 * pitch);
        T *const row = pieces.take(pitch), *const slope = pieces.take(pitch);
        for (; token < end; ++token) {
            in.query.read(row, batch, token);
            outs.read(slope, batch, token);
            slope_of_pooling(p, query, query_weight, query_slope.data() + batch * pitch, batch, pitch, row, slope,
                             query_weights.at(unit));
            gradients.query.write(slope, batch, token);
        }
    });
    write_weight(query_weights, p, pitch, gradients.query_weight);
    write_weight(key_weights, p, pitch, gradients.key_weight);
}

}  // namespace regard

namespace {

using namespace regard;

template <typename T, typename Stored>
TokenRows<T, Stored> rows(const Operand& operand, const AdditiveProblem& p) {
    return TokenRows<T, Stored>(tensor<Stored>(operand, p.channels()));
}

template <typename T, typename Stored>
AdditiveInputs<T, Stored> inputs(const AdditiveProblem& p, const Operand* o, const void* query_weight,
                                 const void* key_weight) {
    return {p, rows<T, const Stored>(o[0], p), rows<T, const Stored>(o[1], p), static_cast<const T*>(query_weight),
            static_cast<const T*>(key_weight)};
}

}  // namespace

// operands: query, key; out to write.
REGARD_EXPORT int regard_additive_forward(int64_t dtype, const AdditiveProblem* problem, const Operand* o,
                                          const void* query_weight, const void* key_weight) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        additive_forward<T, Stored>(inputs<T, Stored>(*problem, o, query_weight, key_weight),
                                    rows<T, Stored>(o[2], *problem));
    });
}

// operands: query, key, gradient of out; gradients of query and key to write. Then the gradients of the weights.
REGARD_EXPORT int regard_additive_backward(int64_t dtype, const AdditiveProblem* problem, const Operand* o,
                                           const void* query_weight, const void* key_weight,
                                           void* query_weight_gradient, void* key_weight_gradient) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        const AdditiveGradients<T, Stored> gradients{
            rows<T, const Stored>(o[2], *problem), rows<T, Stored>(o[3], *problem), rows<T, Stored>(o[4], *problem),
            static_cast<T*>(query_weight_gradient), static_cast<T*>(key_weight_gradient)};
        additive_backward<T, Stored>(inputs<T, Stored>(*problem, o, query_weight, key_weight), gradients);
    });
}
