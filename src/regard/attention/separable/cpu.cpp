// Separable attention on the CPU, forward and backward: one pass over scores and keys, one over values. Each position
// in a patch has a context vector of its own.
#include <cmath>
#include <utility>

#include "../../native/tokens.h"

namespace regard::separable {

struct Problem {
    int64_t batch, channels, threads;
    int64_t keys[3], values[3], patch[3];  // grids of keys and values; size of a patch
};

// The positions in a patch: the position of every token, and runs of tokens at the same position.
struct PatchPositions {
    struct Run {
        int64_t position, begin, end;  // of `order`
    };
    int64_t tokens = 1, count = 1;
    std::vector<int32_t> of_token, order;  // `order` has the tokens sorted by position
    std::vector<Run> runs;                 // short, since nested short sums round less than one long sum

    PatchPositions(const int64_t* grid, const int64_t* patch) {
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
        for (int64_t position = 0; position < count; ++position) {
            int64_t begin = ends[size_t(position)];
            const int64_t end = ends[size_t(position) + 1] += begin;
            for (; begin < end; begin += kTokensPerUnit) {
                runs.push_back({position, begin, std::min(begin + kTokensPerUnit, end)});
            }
        }
        order.resize(size_t(tokens));
        for (int64_t t = 0; t < tokens; ++t) order[size_t(ends[size_t(of_token[size_t(t)])]++)] = int32_t(t);
    }
};

template <typename T, typename Stored>
struct Inputs {
    const Problem& problem;
    TokenRows<T, const Stored> score, key, value;
};

// A run of tokens at one position.
struct TokenRun {
    const int32_t *first, *last;

    const int32_t* begin() const { return first; }
    const int32_t* end() const { return last; }
};

// Calls body(sum, batch entry, position, tokens) for all runs in parallel, and returns the sums of every position,
// [batch entry][position][pitch]. They do not depend on the number of threads.
template <typename T, typename Body>
std::vector<T> sum_positions(const Problem& p, const PatchPositions& positions, int64_t pitch, Body body) {
    const int64_t runs = int64_t(positions.runs.size());
    std::vector<T> partial(size_t(p.batch * runs * pitch)), sums(size_t(p.batch * positions.count * pitch));
    in_parallel(p.batch * runs, p.threads, [&](int, int64_t unit, int64_t end) {
        for (; unit < end; ++unit) {
            const PatchPositions::Run& run = positions.runs[size_t(unit % runs)];
            const int32_t* const order = positions.order.data();
            const TokenRun tokens{order + run.begin, order + run.end};
            body(partial.data() + unit * pitch, unit / runs, run.position, tokens);
        }
    });
    std::vector<double> sum(size_t(pitch), 0.0);
    for (int64_t unit = 0; unit < p.batch * runs; ++unit) {
        const int64_t run = unit % runs, position = positions.runs[size_t(run)].position;
        for (int64_t c = 0; c < pitch; ++c) sum[size_t(c)] += partial[size_t(unit * pitch + c)];
        if (run + 1 < runs && positions.runs[size_t(run) + 1].position == position) continue;
        T* const to = sums.data() + (unit / runs * positions.count + position) * pitch;
        for (int64_t c = 0; c < pitch; ++c) to[c] = T(std::exchange(sum[size_t(c)], 0.0));
    }
    return sums;
}

// Returns the softmax of the scores over the tokens of every position, [batch entry][token].
template <typename T, typename Stored>
std::vector<T> token_weights(const Inputs<T, Stored>& in, const PatchPositions& positions) {
    const Problem& p = in.problem;
    const int64_t tokens = positions.tokens;
    const int32_t* const position = positions.of_token.data();
    std::vector<T> weights(size_t(p.batch * tokens));
    in_parallel(p.batch, p.threads, [&](int, int64_t batch, int64_t end) {
        for (; batch < end; ++batch) {
            T* const row = weights.data() + batch * tokens;
            std::vector<T> max_score(size_t(positions.count), kMasked<T>);
            std::vector<double> sums(size_t(positions.count), 0.0);
            for (int64_t t = 0; t < tokens; ++t) {
                T& position_max = max_score[size_t(position[t])];
                row[t] = widen(*in.score.at(batch, t));
                position_max = row[t] > position_max || row[t] != row[t] ? row[t] : position_max;
            }
            for (int64_t t = 0; t < tokens; ++t) row[t] -= max_score[size_t(position[t])];
            int64_t t = 0;
            for (; t + kLanes<T> <= tokens; t += kLanes<T>) store(row + t, exponential(load(row + t)));
            for (; t < tokens; ++t) row[t] = std::exp(row[t]);
            for (t = 0; t < tokens; ++t) sums[size_t(position[t])] += row[t];
            for (t = 0; t < tokens; ++t) row[t] = T(row[t] / sums[size_t(position[t])]);
        }
    });
    return weights;
}

// Returns the pooled keys, [batch entry][position][C].
template <typename T, typename Stored>
std::vector<T> pool_keys(const Inputs<T, Stored>& in, const PatchPositions& positions, const std::vector<T>& weights) {
    const int64_t pitch = in.key.pitch;
    const auto pool = [&](T* sum, int64_t batch, int64_t, TokenRun tokens) {
        Scratch<T> scratch(pitch);
        T* const buffer = scratch.take(pitch);
        for (const int32_t token : tokens) {
            const T weight = weights[size_t(batch * positions.tokens + token)];
            add_scaled(sum, in.key.row(buffer, batch, token), weight, pitch);
        }
    };
    return sum_positions<T>(in.problem, positions, pitch, pool);
}

template <typename T, typename Stored>
void forward(const Inputs<T, Stored>& in, TokenRows<T, Stored> out) {
    const Problem& p = in.problem;
    const PatchPositions keys(p.keys, p.patch), values(p.values, p.patch);
    const std::vector<T> contexts = pool_keys(in, keys, token_weights(in, keys));
    const int64_t pitch = in.key.pitch;
    TokenUnits(p.batch, values.tokens)
        .in_all_threads(p.threads, [&](int64_t, int64_t batch, int64_t token, int64_t end) {
            Scratch<T> scratch(pitch);
            T* const buffer = scratch.take(pitch);
            for (; token < end; ++token) {
                const T* const context =
                    contexts.data() + (batch * keys.count + values.of_token[size_t(token)]) * pitch;
                const T* const value = in.value.row(buffer, batch, token);
                T* const row = out.place(buffer, batch, token);
                for (int64_t c = 0; c < pitch; c += kLanes<T>) {
                    const Vector<T> lanes = load(value + c), zero = splat(T(0));
                    store(row + c, (lanes < zero ? zero : lanes) * load(context + c));
                }
                out.finish(row, batch, token);
            }
        });
}

template <typename T, typename Stored>
struct Grads {
    TokenRows<T, const Stored> out;
    TokenRows<T, Stored> score, key, value;
};

// Writes the gradients of the values, and returns those of the contexts, [batch entry][position][C].
template <typename T, typename Stored>
std::vector<T> backward_value(const Inputs<T, Stored>& in, const Grads<T, Stored>& grads,
                              const PatchPositions& positions, const std::vector<T>& contexts) {
    const int64_t pitch = in.key.pitch;
    const auto sum_grads = [&](T* sum, int64_t batch, int64_t position, TokenRun tokens) {
        const T* const context = contexts.data() + (batch * positions.count + position) * pitch;
        Scratch<T> scratch(2 * pitch);
        T *const value = scratch.take(pitch), *const grad = scratch.take(pitch);
        for (const int32_t token : tokens) {
            in.value.read(value, batch, token);
            grads.out.read(grad, batch, token);
            for (int64_t c = 0; c < pitch; c += kLanes<T>) {
                const Vector<T> lanes = load(value + c), zero = splat(T(0));
                store(sum + c, load(sum + c) + load(grad + c) * (lanes < zero ? zero : lanes));
                store(grad + c, lanes <= zero ? zero : load(grad + c) * load(context + c));
            }
            grads.value.write(grad, batch, token);
        }
    };
    return sum_positions<T>(in.problem, positions, pitch, sum_grads);
}

template <typename T, typename Stored>
void backward(const Inputs<T, Stored>& in, const Grads<T, Stored>& grads) {
    const Problem& p = in.problem;
    const PatchPositions keys(p.keys, p.patch), values(p.values, p.patch);
    const std::vector<T> weights = token_weights(in, keys), contexts = pool_keys(in, keys, weights);
    const std::vector<T> context_grads = backward_value(in, grads, values, contexts);
    const int64_t pitch = in.key.pitch;
    std::vector<T> means;  // of the weights' gradients, [batch entry][position]
    for (size_t at = 0; at < context_grads.size(); at += size_t(pitch)) {
        const T* const grad = context_grads.data() + at;
        means.push_back(dot(grad, contexts.data() + at, pitch) + zero_or_nan(grad, pitch));
    }
    TokenUnits(p.batch, keys.tokens).in_all_threads(p.threads, [&](int64_t, int64_t batch, int64_t token, int64_t end) {
        Scratch<T> scratch(pitch);
        T* const key = scratch.take(pitch);
        for (; token < end; ++token) {
            const int64_t at = batch * keys.count + keys.of_token[size_t(token)];
            const T* const context_grad = context_grads.data() + at * pitch;
            const T weight = weights[size_t(batch * keys.tokens + token)];
            in.key.read(key, batch, token);
            const T score_grad = weight * (dot(context_grad, key, pitch) - means[size_t(at)]);
            for (int64_t c = 0; c < pitch; c += kLanes<T>) store(key + c, load(context_grad + c) * weight);
            grads.key.write(key, batch, token);
            *grads.score.at(batch, token) = narrow<Stored>(score_grad);
        }
    });
}

template <typename T, typename Stored>
TokenRows<T, Stored> rows(const Operand& operand, int64_t channels) {
    return TokenRows<T, Stored>(tensor<Stored>(operand, channels));
}

template <typename T, typename Stored>
Inputs<T, Stored> inputs(const Problem& p, const Operand* o) {
    return {p, rows<T, const Stored>(o[0], 1), rows<T, const Stored>(o[1], p.channels),
            rows<T, const Stored>(o[2], p.channels)};
}

// Operands: scores, key, value; the output, to write.
REGARD_EXPORT int regard_separable_forward(int64_t dtype, const Problem* problem, const Operand* o) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        forward<T, Stored>(inputs<T, Stored>(*problem, o), rows<T, Stored>(o[3], problem->channels));
    });
}

// Operands: scores, key, value, gradient of the output; gradients of scores, key and value, to write.
REGARD_EXPORT int regard_separable_backward(int64_t dtype, const Problem* problem, const Operand* o) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        const int64_t channels = problem->channels;
        const Grads<T, Stored> grads{rows<T, const Stored>(o[3], channels), rows<T, Stored>(o[4], 1),
                                     rows<T, Stored>(o[5], channels), rows<T, Stored>(o[6], channels)};
        backward<T, Stored>(inputs<T, Stored>(*problem, o), grads);
    });
}

}  // namespace regard::separable
