// Window attention on the CPU, forward and backward, for grids of three axes (missing ones have length 1).
//
// A unit of work is one window: its tokens are read where they stand, so neither the shift nor the partition copies
// anything, and for each head the window's few matrices stay in the first-level cache. The bias is expanded from its
// table once per head and thread. The backward pass computes the weights again; every gradient is written once.
#include "../_native/product.h"
#include "../_native/tensors.h"
#include "../_native/threads.h"

#include <vector>

namespace regard {

struct WindowProblem {
    int64_t batch, heads, query_dim, value_dim, threads;
    int64_t length[3], window[3], shift[3];  // a length is a multiple of its window
    double scale;
};

constexpr int64_t kBiasBytes = 256 * 1024;  // of expanded biases a thread; heads are taken in groups that fit

// What all threads know: how windows and heads are cut into units, and where a pair of tokens finds its bias.
struct WindowPlan {
    const WindowProblem& problem;
    int64_t tokens, windows, count[3], table = 1;
    std::vector<int64_t> places;  // of every token in its window, three numbers each
    std::vector<int64_t> index;   // of every token in a head's table, but for a constant
    int64_t middle = 0;           // where the table has a token's bias to itself

    explicit WindowPlan(const WindowProblem& problem) : problem(problem), tokens(1), windows(problem.batch) {
        for (int axis = 0; axis < 3; ++axis) {
            tokens *= problem.window[axis];
            count[axis] = problem.length[axis] / problem.window[axis];
            windows *= count[axis];
            table *= 2 * problem.window[axis] - 1;
        }
        for (int64_t t = 0; t < tokens; ++t) {
            const int64_t plane = problem.window[1] * problem.window[2];
            places.insert(places.end(), {t / plane, t / problem.window[2] % problem.window[1], t % problem.window[2]});
        }
        for (int64_t t = 0; t < tokens; ++t) {
            int64_t at = 0;
            for (int axis = 0; axis < 3; ++axis)
                at = at * (2 * problem.window[axis] - 1) + places[size_t(3 * t + axis)];
            index.push_back(at);
        }
        middle = index.back();
    }
    // Where a head's table has the bias of a pair of tokens: by key minus query.
    int64_t relative(int64_t query, int64_t key) const { return index[size_t(key)] - index[size_t(query)] + middle; }
};

// The window that a thread works on: where its tokens stand, and which of them the shift has carried across a border.
template <typename T>
struct Window {
    const WindowPlan& plan;
    int64_t batch = 0;
    bool mixed = false;             // whether tokens of different regions share it
    std::vector<int64_t> position;  // of every token, three numbers each
    std::vector<T> region;          // of no token in the lanes that only fill up a vector

    explicit Window(const WindowPlan& plan)
        : plan(plan),
          position(size_t(3 * plan.tokens)),
          region(size_t(whole_vectors<T>(plan.tokens)), T(-1)) {}

    void enter(int64_t index) {
        int64_t cell[3];
        for (int axis = 2; axis >= 0; --axis) {
            cell[axis] = index % plan.count[axis];
            index /= plan.count[axis];
        }
        batch = index;
        mixed = false;
        for (int64_t t = 0; t < plan.tokens; ++t) {
            int carried = 0;
            for (int axis = 0; axis < 3; ++axis) {
                const WindowProblem& p = plan.problem;
                const int64_t rolled = cell[axis] * p.window[axis] + plan.places[3 * t + axis] + p.shift[axis];
                const bool beyond = rolled >= p.length[axis];
                position[3 * t + axis] = beyond ? rolled - p.length[axis] : rolled;
                carried = 2 * carried + beyond;
            }
            region[t] = T(carried);
            mixed = mixed || carried != int(region[0]);
        }
    }
};

// One tensor in one window: offsets of its tokens.
template <typename Stored>
struct Tokens {
    Tensor<Stored> tensor;
    std::vector<int64_t> offsets;
    Stored* first = nullptr;  // of the head

    Tokens(Tensor<Stored> tensor, const WindowPlan& plan) : tensor(tensor), offsets(plan.tokens) {}

    template <typename T>
    void enter(const Window<T>& window) {
        for (size_t t = 0; t < offsets.size(); ++t) {
            offsets[t] = window.batch * tensor.strides[0];
            for (int axis = 0; axis < 3; ++axis) offsets[t] += window.position[3 * t + axis] * tensor.strides[1 + axis];
        }
    }
    void head(int64_t index) { first = tensor.data + index * tensor.strides[4]; }

    // Fetches a token of the next head, which stands next to this one in memory but nowhere near the next token.
    void prefetch(int64_t token) const {
        const auto* const next = reinterpret_cast<const char*>(first + offsets[size_t(token)] + tensor.strides[4]);
        for (int64_t byte = 0; byte < tensor.channels * int64_t(sizeof(Stored)); byte += 64)
            __builtin_prefetch(next + byte);
    }

    template <typename T>
    void rows(T* out, int64_t pitch, T factor = 1) const {  // [token][channel]
        for (size_t t = 0; t < offsets.size(); ++t) {
            read_channels<T>(out + int64_t(t) * pitch, pitch, first + offsets[t], tensor.channels, tensor.strides[5],
                             factor);
        }
    }
    template <typename T>
    void columns(T* out, int64_t pitch) const {  // [channel][token]
        read_lanes<T>(out, pitch, first, offsets.data(), int(offsets.size()), tensor.channels, tensor.strides[5], T(1));
    }
    template <typename T>
    void write(const T* in, int64_t pitch, T factor) const {
        for (size_t t = 0; t < offsets.size(); ++t) {
            write_channels<T>(in + int64_t(t) * pitch, first + offsets[t], tensor.channels, tensor.strides[5], factor);
        }
    }
};

template <typename T, typename Stored>
struct WindowInputs {
    const WindowProblem& problem;
    Tensor<const Stored> query, key, value;
    const T* bias;  // [nh, table], or null
};

// What one thread needs for the weights of one window and head.
template <typename T, typename Stored>
struct Weights {
    static constexpr int n = kLanes<T>;
    const WindowPlan& plan;
    const T* table;
    int64_t pitch, query_pitch;  // whole vectors of tokens and channels
    Tokens<const Stored> queries, keys;
    T *query, *key, *scores, *totals, *biases;
    int64_t first_head = -1;

    static int64_t elements(const WindowPlan& plan, int64_t group) {
        const int64_t pitch = whole_vectors<T>(plan.tokens), channels = plan.problem.query_dim;
        return plan.tokens * whole_vectors<T>(channels) + channels * pitch + plan.tokens * pitch + pitch +
               group * plan.tokens * pitch;
    }
    Weights(const WindowInputs<T, Stored>& in, const WindowPlan& plan, int64_t group, Pieces<T>& pieces)
        : plan(plan),
          table(in.bias),
          pitch(whole_vectors<T>(plan.tokens)),
          query_pitch(whole_vectors<T>(in.query.channels)),
          queries(in.query, plan),
          keys(in.key, plan),
          query(pieces.take(plan.tokens * query_pitch)),
          key(pieces.take(in.key.channels * pitch)),
          scores(pieces.take(plan.tokens * pitch)),
          totals(pieces.take(pitch)),
          biases(pieces.take(group * plan.tokens * pitch)) {}

    // Expands the biases of a group of heads; keys that only fill up a vector are hidden.
    void enter_heads(int64_t head, int64_t count) {
        if (head == first_head) return;
        first_head = head;
        for (int64_t row = 0; row < count * plan.tokens; ++row) {
            const int64_t from = (head + row / plan.tokens) * plan.table, query = row % plan.tokens;
            for (int64_t t = 0; t < pitch; ++t) {
                biases[row * pitch + t] = t >= plan.tokens ? kHidden<T>
                                          : table          ? table[from + plan.relative(query, t)]
                                                           : T(0);
            }
        }
    }
    // Computes exp(logit - highest) and the sums of its rows; meanwhile the tokens of the next head are on their way.
    template <typename... More>
    void compute(const Window<T>& window, int64_t head, const More&... more) {
        queries.head(head);
        keys.head(head);
        queries.rows(query, query_pitch, T(plan.problem.scale));
        keys.columns(key, pitch);
        product<T>({query, query_pitch, 1}, key, pitch, scores, pitch, plan.tokens, pitch, keys.tensor.channels);
        const T* const bias = biases + (head - first_head) * plan.tokens * pitch;
        for (int64_t t = 0; t < plan.tokens; ++t) {
            T* const row = scores + t * pitch;
            queries.prefetch(t), keys.prefetch(t), (more.prefetch(t), ...);
            Vector<T> most = splat(kHidden<T>);
            for (int64_t k = 0; k < pitch; k += n) {
                Vector<T> logit = load(row + k) + load(bias + t * pitch + k);
                if (window.mixed)
                    logit = load(window.region.data() + k) == window.region[t] ? logit : splat(kHidden<T>);
                store(row + k, logit);
                most = maximum<T>(most, logit);
            }
            const T shift = highest<T>(most);
            Vector<T> sum = splat(T(0));
            for (int64_t k = 0; k < pitch; k += n) {
                const Vector<T> weight = exponential(load(row + k) - shift);
                store(row + k, weight);
                sum += weight;
            }
            totals[t] = total<T>(sum);
        }
    }
};

// Heads are taken in groups whose biases fit; the windows of one group are the units of a part.
struct Units {
    int64_t group, parts, count;

    Units(const WindowPlan& plan, int64_t element_bytes) {
        const int64_t one = plan.tokens * (plan.tokens + 16) * element_bytes;
        group = std::clamp<int64_t>(kBiasBytes / one, 1, plan.problem.heads);
        parts = (plan.problem.heads + group - 1) / group;
        count = parts * plan.windows;
    }
};

template <typename T, typename Stored>
void window_forward(const WindowInputs<T, Stored>& in, Tensor<Stored> out) {
    const WindowPlan plan(in.problem);
    const Units units(plan, sizeof(T));
    in_parallel(units.count, in.problem.threads, [&](int, int64_t unit, int64_t end) {
        const int64_t tokens = plan.tokens, value_pitch = whole_vectors<T>(in.value.channels);
        Pieces<T> pieces(Weights<T, Stored>::elements(plan, units.group) + 2 * tokens * value_pitch);
        Weights<T, Stored> weights(in, plan, units.group, pieces);
        T *const value = pieces.take(tokens * value_pitch), *const result = pieces.take(tokens * value_pitch);
        Tokens<const Stored> values(in.value, plan);
        Tokens<Stored> results(out, plan);
        Window<T> window(plan);
        for (; unit < end; ++unit) {
            const int64_t head = unit / plan.windows * units.group,
                          last = std::min(head + units.group, in.problem.heads);
            weights.enter_heads(head, last - head);
            window.enter(unit % plan.windows);
            weights.queries.enter(window);
            weights.keys.enter(window);
            values.enter(window);
            results.enter(window);
            for (int64_t h = head; h < last; ++h) {
                values.head(h);
                results.head(h);
                weights.compute(window, h, values);
                values.rows(value, value_pitch);
                product<T>({weights.scores, weights.pitch, 1}, value, value_pitch, result, value_pitch, tokens,
                           value_pitch, tokens);
                for (int64_t t = 0; t < tokens; ++t) {
                    T* const row = result + t * value_pitch;
                    for (int64_t c = 0; c < value_pitch; c += kLanes<T>)
                        store(row + c, load(row + c) / weights.totals[t]);
                }
                results.write(result, value_pitch, T(1));
            }
        }
    });
}

template <typename T, typename Stored>
struct WindowGradients {
    Tensor<const Stored> out;
    Tensor<Stored> query, key, value;
    T* bias;
};

// Normalizes the weights, and turns their gradients into those of the logits: 0, whatever comes in, where they are
// masked.
template <typename T>
void slopes_of_logits(T* weights, T* slopes, const T* totals, const Window<T>& window, int64_t pitch, T* collected) {
    constexpr int n = kLanes<T>;
    const int64_t tokens = window.plan.tokens;
    for (int64_t t = 0; t < tokens; ++t) {
        T *const weight = weights + t * pitch, *const slope = slopes + t * pitch;
        Vector<T> sum = splat(T(0));
        for (int64_t k = 0; k < pitch; k += n) {
            const Vector<T> share = load(weight + k) / totals[t];
            store(weight + k, share);
            sum += share * load(slope + k);
        }
        const T mean = total<T>(sum);
        for (int64_t k = 0; k < pitch; k += n) {
            Vector<T> here = load(weight + k) * (load(slope + k) - mean);
            if (window.mixed) here = load(window.region.data() + k) == window.region[size_t(t)] ? here : splat(T(0));
            store(slope + k, here);
            if (collected) store(collected + t * pitch + k, load(collected + t * pitch + k) + here);
        }
    }
}

template <typename T, typename Stored>
void window_backward(const WindowInputs<T, Stored>& in, const WindowGradients<T, Stored>& gradients) {
    const WindowPlan plan(in.problem);
    const Units units(plan, sizeof(T));
    const int64_t heads = in.problem.heads;
    std::vector<std::vector<double>> tables(size_t(in.problem.threads));
    in_parallel(units.count, in.problem.threads, [&](int thread, int64_t unit, int64_t end) {
        const int64_t tokens = plan.tokens, value_pitch = whole_vectors<T>(in.value.channels);
        const int64_t query_pitch = whole_vectors<T>(in.query.channels), pitch = whole_vectors<T>(tokens);
        const int64_t square = tokens * pitch, collected_size = in.bias ? units.group * square : 0;
        Pieces<T> pieces(Weights<T, Stored>::elements(plan, units.group) + in.value.channels * pitch + square +
                         collected_size + 2 * tokens * (query_pitch + value_pitch));
        Weights<T, Stored> weights(in, plan, units.group, pieces);
        T *const value = pieces.take(in.value.channels * pitch), *const slopes = pieces.take(square);
        T *const collected = pieces.take(collected_size), *const key = pieces.take(tokens * query_pitch);
        T *const out = pieces.take(tokens * value_pitch), *const result =
                                                              pieces.take(tokens * std::max(query_pitch, value_pitch));
        Tokens<const Stored> values(in.value, plan), outs(gradients.out, plan);
        Tokens<Stored> queries(gradients.query, plan), keys(gradients.key, plan),
            value_gradients(gradients.value, plan);
        Window<T> window(plan);
        if (in.bias) tables[thread].assign(size_t(heads * plan.table), 0.0);
        const auto hand_in = [&](int64_t head, int64_t count) {
            for (int64_t row = 0; in.bias && row < count * tokens; ++row) {
                double* const to = tables[thread].data() + (head + row / tokens) * plan.table;
                for (int64_t t = 0; t < tokens; ++t) {
                    to[plan.relative(row % tokens, t)] += collected[row * pitch + t];
                    collected[row * pitch + t] = 0;
                }
            }
        };
        for (; unit < end; ++unit) {
            const int64_t head = unit / plan.windows * units.group, last = std::min(head + units.group, heads);
            weights.enter_heads(head, last - head);
            window.enter(unit % plan.windows);
            weights.queries.enter(window);
            weights.keys.enter(window);
            values.enter(window);
            outs.enter(window);
            queries.enter(window);
            keys.enter(window);
            value_gradients.enter(window);
            for (int64_t h = head; h < last; ++h) {
                for (auto* each : {&values, &outs}) each->head(h);
                for (auto* each : {&queries, &keys, &value_gradients}) each->head(h);
                weights.compute(window, h, values, outs);
                values.columns(value, pitch);
                outs.rows(out, value_pitch);
                product<T>({out, value_pitch, 1}, value, pitch, slopes, pitch, tokens, pitch, in.value.channels);
                slopes_of_logits(weights.scores, slopes, weights.totals, window, pitch,
                                 in.bias ? collected + (h - head) * square : nullptr);
                product<T>({weights.scores, 1, pitch}, out, value_pitch, result, value_pitch, tokens, value_pitch,
                           tokens);
                value_gradients.write(result, value_pitch, T(1));
                product<T>({slopes, 1, pitch}, weights.query, query_pitch, result, query_pitch, tokens, query_pitch,
                           tokens);
                keys.write(result, query_pitch, T(1));
                weights.keys.rows(key, query_pitch);
                product<T>({slopes, pitch, 1}, key, query_pitch, result, query_pitch, tokens, query_pitch, tokens);
                queries.write(result, query_pitch, T(in.problem.scale));
            }
            // Not only when the heads change: short sums of short sums round less than one long one.
            if (unit + 1 == end || (unit + 1) % plan.windows == 0 || unit % 16 == 15) hand_in(head, last - head);
        }
    });
    for (int64_t i = 0; in.bias && i < heads * plan.table; ++i) {
        double sum = 0;
        for (const auto& one : tables) sum += one.empty() ? 0.0 : one[size_t(i)];
        gradients.bias[i] = T(sum);
    }
}

}  // namespace regard

namespace {

using namespace regard;

template <typename T, typename Stored>
WindowInputs<T, Stored> inputs(const WindowProblem& p, const Operand* o, const void* bias) {
    return {p, tensor<const Stored>(o[0], p.query_dim), tensor<const Stored>(o[1], p.query_dim),
            tensor<const Stored>(o[2], p.value_dim), static_cast<const T*>(bias)};
}

}  // namespace

// operands: query, key, value, out.
REGARD_EXPORT int regard_window_forward(int64_t dtype, const WindowProblem* problem, const Operand* o,
                                        const void* bias) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        window_forward<T, Stored>(inputs<T, Stored>(*problem, o, bias), tensor<Stored>(o[3], problem->value_dim));
    });
}

// operands: query, key, value, gradient of out; gradients of query, key, value to write.
REGARD_EXPORT int regard_window_backward(int64_t dtype, const WindowProblem* problem, const Operand* o,
                                         const void* bias, void* bias_gradient) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        const WindowGradients<T, Stored> gradients{
            tensor<const Stored>(o[3], problem->value_dim), tensor<Stored>(o[4], problem->query_dim),
            tensor<Stored>(o[5], problem->query_dim), tensor<Stored>(o[6], problem->value_dim),
            static_cast<T*>(bias_gradient)};
        window_backward<T, Stored>(inputs<T, Stored>(*problem, o, bias), gradients);
    });
}
