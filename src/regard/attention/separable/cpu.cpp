// Separable attention on the CPU, forward and backward: one pass over scores and keys, one over values. Positions with
// different places in their patches have context vectors of their own.
#include <cmath>
#include <utility>

#include "../_native/tokens.h"

namespace regard {

struct SeparableProblem {
    int64_t batch, channels, threads;
    int64_t keys[3], values[3], patch[3];  // both grids, and positions of a patch per axis
};

// The places in a patch, which of them a token has, and runs of tokens that have the same.
struct Places {
    struct Run {
        int64_t place, begin, end;  // of `order`
    };
    int64_t tokens = 1, count = 1;
    std::vector<int32_t> of_token, order;  // tokens, place by place
    std::vector<Run> runs;                 // short: sums of short sums round less than one long one

    Places(const int64_t* grid, const int64_t* patch) {
        for (int axis = 0; axis < 3; ++axis) {
            tokens *= grid[axis];
            count *= patch[axis];
        }
        std::vector<int64_t> ends(size_t(count + 1));
        for (int64_t t = 0; t < tokens; ++t) {
            const int64_t at[3] = {t / (grid[1] * grid[2]), t / grid[2] % grid[1], t % grid[2]};
            of_token.push_back(int32_t((at[0] % patch[0] * patch[1] + at[1] % patch[1]) * patch[2] + at[2] % patch[2]));
            ++ends[size_t(of_token.back()) + 1];
        }
        for (int64_t place = 0; place < count; ++place) {
            int64_t begin = ends[size_t(place)];
            const int64_t end = ends[size_t(place) + 1] += begin;
            for (; begin < end; begin += kTokensOfUnit)
                runs.push_back({place, begin, std::min(begin + kTokensOfUnit, end)});
        }
        order.resize(size_t(tokens));
        for (int64_t t = 0; t < tokens; ++t) order[size_t(ends[size_t(of_token[size_t(t)])]++)] = int32_t(t);
    }
};

template <typename T, typename Stored>
struct SeparableInputs {
    const SeparableProblem& problem;
    TokenRows<T, const Stored> score, key, value;
};

// Some tokens of one place.
struct TokensOfPlace {
    const int32_t *first, *last;

    const int32_t* begin() const { return first; }
    const int32_t* end() const { return last; }
};

// Calls body(sum, batch entry, place, tokens) for all runs in all threads, and returns the sums of every place,
// [batch entry][place][pitch], which are the same whatever the threads.
template <typename T, typename Body>
std::vector<T> sums_of_places(const SeparableProblem& p, const Places& places, int64_t pitch, Body body) {
    const int64_t runs = int64_t(places.runs.size());
    std::vector<T> partial(size_t(p.batch * runs * pitch)), sums(size_t(p.batch * places.count * pitch));
    in_parallel(p.batch * runs, p.threads, [&](int, int64_t unit, int64_t end) {
        for (; unit < end; ++unit) {
            const Places::Run& run = places.runs[size_t(unit % runs)];
            body(partial.data() + unit * pitch, unit / runs, run.place,
                 TokensOfPlace{places.order.data() + run.begin, places.order.data() + run.end});
        }
    });
    std::vector<double> sum(size_t(pitch), 0.0);
    for (int64_t unit = 0; unit < p.batch * runs; ++unit) {
        const int64_t place = places.runs[size_t(unit % runs)].place;
        for (int64_t c = 0; c < pitch; ++c) sum[size_t(c)] += partial[size_t(unit * pitch + c)];
        if (unit % runs + 1 < runs && places.runs[size_t(unit % runs) + 1].place == place) continue;
        T* const to = sums.data() + (unit / runs * places.count + place) * pitch;
        for (int64_t c = 0; c < pitch; ++c) to[c] = T(std::exchange(sum[size_t(c)], 0.0));
    }
    return sums;
}

// The softmax of the scores over the tokens of every place, [batch entry][token].
template <typename T, typename Stored>
std::vector<T> weights_of(const SeparableInputs<T, Stored>& in, const Places& places) {
    const SeparableProblem& p = in.problem;
    std::vector<T> weights(size_t(p.batch * places.tokens));
    in_parallel(p.batch, p.threads, [&](int, int64_t batch, int64_t end) {
        for (; batch < end; ++batch) {
            T* const mine = weights.data() + batch * places.tokens;
            std::vector<T> most(size_t(places.count), kHidden<T>);
            std::vector<double> sums(size_t(places.count), 0.0);
            for (int64_t t = 0; t < places.tokens; ++t) {
                T& here = most[size_t(places.of_token[size_t(t)])];
                mine[t] = widen(*in.score.at(batch, t));
                here = mine[t] > here || mine[t] != mine[t] ? mine[t] : here;
            }
            for (int64_t t = 0; t < places.tokens; ++t) mine[t] -= most[size_t(places.of_token[size_t(t)])];
            int64_t t = 0;
            for (; t + kLanes<T> <= places.tokens; t += kLanes<T>) store(mine + t, exponential(load(mine + t)));
            for (; t < places.tokens; ++t) mine[t] = std::exp(mine[t]);
            for (t = 0; t < places.tokens; ++t) sums[size_t(places.of_token[size_t(t)])] += mine[t];
            for (t = 0; t < places.tokens; ++t) mine[t] = T(mine[t] / sums[size_t(places.of_token[size_t(t)])]);
        }
    });
    return weights;
}

// The pooled keys, [batch entry][place][C].
template <typename T, typename Stored>
std::vector<T> contexts_of(const SeparableInputs<T, Stored>& in, const Places& places, const std::vector<T>& weights) {
    const int64_t pitch = in.key.pitch;
    return sums_of_places<T>(in.problem, places, pitch, [&](T* sum, int64_t batch, int64_t, TokensOfPlace tokens) {
        Pieces<T> pieces(pitch);
        T* const scratch = pieces.take(pitch);
        for (const int32_t token : tokens) {
            add_scaled(sum, in.key.row(scratch, batch, token), weights[size_t(batch * places.tokens + token)], pitch);
        }
    });
}

template <typename T, typename Stored>
void separable_forward(const SeparableInputs<T, Stored>& in, TokenRows<T, Stored> out) {
    const SeparableProblem& p = in.problem;
    const Places places(p.keys, p.patch), value_places(p.values, p.patch);
    const std::vector<T> contexts = contexts_of(in, places, weights_of(in, places));
    const int64_t pitch = in.key.pitch;
    TokenUnits(p.batch, value_places.tokens)
        .in_all_threads(p.threads, [&](int64_t, int64_t batch, int64_t token, int64_t end) {
            Pieces<T> pieces(pitch);
            T* const scratch = pieces.take(pitch);
            for (; token < end; ++token) {
                const T* const context =
                    contexts.data() + (batch * places.count + value_places.of_token[size_t(token)]) * pitch;
                const T* const value = in.value.row(scratch, batch, token);
                T* const row = out.place(scratch, batch, token);
                for (int64_t c = 0; c < pitch; c += kLanes<T>) {
                    const Vector<T> here = load(value + c);
                    store(row + c, (here < splat(T(0)) ? splat(T(0)) : here) * load(context + c));
                }
                out.finish(row, batch, token);
            }
        });
}

template <typename T, typename Stored>
struct SeparableGradients {
    TokenRows<T, const Stored> out;
    TokenRows<T, Stored> score, key, value;
};

template <typename T, typename Stored>
void separable_backward(const SeparableInputs<T, Stored>& in, const SeparableGradients<T, Stored>& gradients) {
    const SeparableProblem& p = in.problem;
    const Places places(p.keys, p.patch), value_places(p.values, p.patch);
    const std::vector<T> weights = weights_of(in, places), contexts = contexts_of(in, places, weights);
    const int64_t pitch = in.key.pitch;
    const std::vector<T> slopes =
        sums_of_places<T>(p, value_places, pitch, [&](T* sum, int64_t batch, int64_t place, TokensOfPlace tokens) {
            const T* const context = contexts.data() + (batch * places.count + place) * pitch;
            Pieces<T> pieces(2 * pitch);
            T *const value = pieces.take(pitch), *const slope = pieces.take(pitch);
            for (const int32_t token : tokens) {
                in.value.read(value, batch, token);
                gradients.out.read(slope, batch, token);
                for (int64_t c = 0; c < pitch; c += kLanes<T>) {
                    const Vector<T> here = load(value + c), zero = splat(T(0));
                    store(sum + c, load(sum + c) + load(slope + c) * (here < zero ? zero : here));
                    store(slope + c, here <= zero ? zero : load(slope + c) * load(context + c));
                }
                gradients.value.write(slope, batch, token);
            }
        });
    TokenUnits(p.batch, places.tokens)
        .in_all_threads(p.threads, [&](int64_t, int64_t batch, int64_t token, int64_t end) {
            Pieces<T> pieces(pitch);
            T* const key = pieces.take(pitch);
            for (; token < end; ++token) {
                const int64_t at = (batch * places.count + places.of_token[size_t(token)]) * pitch;
                const T *const slope = slopes.data() + at, *const context = contexts.data() + at;
                const T weight = weights[size_t(batch * places.tokens + token)];
                in.key.read(key, batch, token);
                const T mean = dot(slope, context, pitch);
                const T score = weight * (dot(slope, key, pitch) - mean);
                for (int64_t c = 0; c < pitch; c += kLanes<T>) store(key + c, load(slope + c) * weight);
                gradients.key.write(key, batch, token);
                *gradients.score.at(batch, token) = narrow<Stored>(score);
            }
        });
}

}  // namespace regard

namespace {

using namespace regard;

template <typename T, typename Stored>
TokenRows<T, Stored> rows(const Operand& operand, int64_t channels) {
    return TokenRows<T, Stored>(tensor<Stored>(operand, channels));
}

template <typename T, typename Stored>
SeparableInputs<T, Stored> inputs(const SeparableProblem& p, const Operand* o) {
    return {p, rows<T, const Stored>(o[0], 1), rows<T, const Stored>(o[1], p.channels),
            rows<T, const Stored>(o[2], p.channels)};
}

}  // namespace

// operands: scores, key, value; out to write.
REGARD_EXPORT int regard_separable_forward(int64_t dtype, const SeparableProblem* problem, const Operand* o) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        separable_forward<T, Stored>(inputs<T, Stored>(*problem, o), rows<T, Stored>(o[3], problem->channels));
    });
}

// operands: scores, key, value, gradient of out; gradients of scores, key and value to write.
REGARD_EXPORT int regard_separable_backward(int64_t dtype, const SeparableProblem* problem, const Operand* o) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        const int64_t channels = problem->channels;
        const SeparableGradients<T, Stored> gradients{rows<T, const Stored>(o[3], channels), rows<T, Stored>(o[4], 1),
                                                      rows<T, Stored>(o[5], channels), rows<T, Stored>(o[6], channels)};
        separable_backward<T, Stored>(inputs<T, Stored>(*problem, o), gradients);
    });
}
