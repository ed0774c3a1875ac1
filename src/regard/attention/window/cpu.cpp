// Window attention on the CPU, forward and backward, for grids of three axes (missing ones have length 1).
//
// A unit of work is one window. Its tokens are read in place, so neither the shift nor the partition copies anything,
// and the matrices of one window and head stay in the first-level cache. The bias is expanded from its table once per
// head and thread. The backward pass computes the weights again, and writes every gradient once.
#include "../../native/memory.h"
#include "../../native/product.h"
#include "../../native/threads.h"
#include "window.h"

namespace regard::window {

template <typename T, typename Stored>
struct Inputs {
    const Problem& problem;
    Tensor<const Stored> query, key, value;
    const T* bias;  // [nh, table], or null
};

// Computes the weights of one window and head.
template <typename T, typename Stored>
struct Weights {
    static constexpr int n = kLanes<T>;
    const Plan& plan;
    const T* table;
    int64_t pitch, query_pitch;  // tokens and channels, in whole vectors
    Tokens<const Stored> queries, keys;
    T *query, *key, *scores, *totals, *biases;
    int64_t first_head = -1;

    static int64_t elements(const Plan& plan, int64_t group) {
        const int64_t pitch = padded_size<T>(plan.tokens), channels = plan.problem.query_dim;
        return plan.tokens * padded_size<T>(channels) + channels * pitch + plan.tokens * pitch + pitch +
               group * plan.tokens * pitch;
    }
    Weights(const Inputs<T, Stored>& in, const Plan& plan, int64_t group, Scratch<T>& scratch)
        : plan(plan),
          table(in.bias),
          pitch(padded_size<T>(plan.tokens)),
          query_pitch(padded_size<T>(in.query.channels)),
          queries(in.query, plan),
          keys(in.key, plan),
          query(scratch.take(plan.tokens * query_pitch)),
          key(scratch.take(in.key.channels * pitch)),
          scores(scratch.take(plan.tokens * pitch)),
          totals(scratch.take(pitch)),
          biases(scratch.take(group * plan.tokens * pitch)) {}

    // Expands the biases of a group of heads. The padding lanes are masked.
    void enter_heads(int64_t head, int64_t end) {
        if (head == first_head) return;
        first_head = head;
        for (int64_t row = 0; row < (end - head) * plan.tokens; ++row) {
            const int64_t from = (head + row / plan.tokens) * plan.table, query = row % plan.tokens;
            T* const bias = biases + row * pitch;
            for (int64_t t = 0; t < plan.tokens; ++t) bias[t] = table ? table[from + plan.relative(query, t)] : T(0);
            std::fill(bias + plan.tokens, bias + pitch, kMasked<T>);
        }
    }
    void enter(const Window<T>& window) {
        queries.enter(window);
        keys.enter(window);
    }
    // Computes exp(logit - maximum) and the sums of its rows. Prefetches the tokens of the next head meanwhile.
    template <typename... More>
    void compute(const Window<T>& window, int64_t head, const More&... more) {
        queries.enter_head(head);
        keys.enter_head(head);
        queries.read_rows(query, query_pitch, T(plan.problem.scale));
        keys.read_columns(key, pitch);
        const int64_t tokens = plan.tokens;
        product<T>({query, query_pitch, 1}, key, pitch, scores, pitch, tokens, pitch, keys.tensor.channels);
        const T* const bias = biases + (head - first_head) * tokens * pitch;
        for (int64_t t = 0; t < tokens; ++t) {
            queries.prefetch(t), keys.prefetch(t), (more.prefetch(t), ...);
            totals[t] = softmax(scores + t * pitch, bias + t * pitch, pitch, window, t);
        }
    }

   private:
    // Turns a row of scores into exp(logit - maximum), and returns the sum. The sizes are arguments, since the stores
    // could alias members.
    static T softmax(T* row, const T* bias, int64_t pitch, const Window<T>& window, int64_t t) {
        const T* const regions = window.region.data();
        const T region = regions[t];
        const bool is_mixed = window.is_mixed;
        Vector<T> max_logits = splat(kMasked<T>);
        for (int64_t k = 0; k < pitch; k += n) {
            Vector<T> logit = load(row + k) + load(bias + k);
            if (is_mixed) logit = load(regions + k) == region ? logit : splat(kMasked<T>);
            store(row + k, logit);
            max_logits = maximum<T>(max_logits, logit);
        }
        const T shift = max_lane<T>(max_logits);
        Vector<T> sum = splat(T(0));
        for (int64_t k = 0; k < pitch; k += n) {
            const Vector<T> weight = exponential(load(row + k) - shift);
            store(row + k, weight);
            sum += weight;
        }
        return sum_lanes<T>(sum);
    }
};

template <typename T, typename Stored>
void forward(const Inputs<T, Stored>& in, Tensor<Stored> out) {
    const Plan plan(in.problem);
    const Units units(plan, sizeof(T));
    in_parallel(units.count, in.problem.threads, [&](int, int64_t unit, int64_t end) {
        const int64_t tokens = plan.tokens, pitch = padded_size<T>(in.value.channels);
        Scratch<T> scratch(Weights<T, Stored>::elements(plan, units.group) + 2 * tokens * pitch);
        Weights<T, Stored> weights(in, plan, units.group, scratch);
        T *const value = scratch.take(tokens * pitch), *const result = scratch.take(tokens * pitch);
        Tokens<const Stored> values(in.value, plan);
        Tokens<Stored> outs(out, plan);
        Window<T> window(plan);
        for (; unit < end; ++unit) {
            weights.enter_heads(units.first_head(unit), units.end_head(unit));
            window.enter(units.window(unit));
            weights.enter(window);
            values.enter(window);
            outs.enter(window);
            for (int64_t head = units.first_head(unit); head < units.end_head(unit); ++head) {
                values.enter_head(head);
                outs.enter_head(head);
                weights.compute(window, head, values);
                values.read_rows(value, pitch);
                product<T>({weights.scores, weights.pitch, 1}, value, pitch, result, pitch, tokens, pitch, tokens);
                for (int64_t t = 0; t < tokens; ++t) {
                    T* const row = result + t * pitch;
                    for (int64_t c = 0; c < pitch; c += kLanes<T>) store(row + c, load(row + c) / weights.totals[t]);
                }
                outs.write_rows(result, pitch, T(1));
            }
        }
    });
}

template <typename T, typename Stored>
struct Grads {
    Tensor<const Stored> out;
    Tensor<Stored> query, key, value;
    T* bias;
};

// Normalizes the weights, and turns their gradients into those of the logits, which are 0 where the logits are masked.
// Adds the latter to `bias_grad` if that is not null.
template <typename T>
void softmax_backward(T* weights, T* grads, const T* totals, const Window<T>& window, int64_t pitch, T* bias_grad) {
    constexpr int n = kLanes<T>;
    const int64_t tokens = window.plan.tokens;
    const T* const regions = window.region.data();
    const bool is_mixed = window.is_mixed;
    for (int64_t t = 0; t < tokens; ++t) {
        T *const weight = weights + t * pitch, *const grad = grads + t * pitch;
        Vector<T> sum = splat(T(0));
        for (int64_t k = 0; k < pitch; k += n) {
            const Vector<T> normalized = load(weight + k) / totals[t];
            store(weight + k, normalized);
            sum += normalized * load(grad + k);
        }
        const T mean = sum_lanes<T>(sum), region = regions[t];
        for (int64_t k = 0; k < pitch; k += n) {
            Vector<T> logit_grad = load(weight + k) * (load(grad + k) - mean);
            if (is_mixed) logit_grad = load(regions + k) == region ? logit_grad : splat(T(0));
            store(grad + k, logit_grad);
            if (bias_grad) store(bias_grad + t * pitch + k, load(bias_grad + t * pitch + k) + logit_grad);
        }
    }
}

// The backward pass of one thread.
template <typename T, typename Stored>
struct Backward {
    const Plan& plan;
    const Units& units;
    bool has_bias;
    int64_t pitch, query_pitch, value_pitch;  // tokens and channels, in whole vectors
    Scratch<T> scratch;
    Weights<T, Stored> weights;
    T *value, *score_grads, *bias_grads, *key, *out, *result;
    Tokens<const Stored> values, outs;
    Tokens<Stored> query_grads, key_grads, value_grads;
    Window<T> window;
    Padding<T> padding;

    static int64_t elements(const Inputs<T, Stored>& in, const Plan& plan, const Units& units) {
        const int64_t channels = padded_size<T>(in.query.channels) + padded_size<T>(in.value.channels);
        const int64_t pitch = padded_size<T>(plan.tokens), square = plan.tokens * pitch;
        return Weights<T, Stored>::elements(plan, units.group) + in.value.channels * pitch +
               square * (in.bias ? 1 + units.group : 1) + 2 * plan.tokens * channels;
    }
    Backward(const Inputs<T, Stored>& in, const Grads<T, Stored>& grads, const Plan& plan, const Units& units)
        : plan(plan),
          units(units),
          has_bias(in.bias != nullptr),
          pitch(padded_size<T>(plan.tokens)),
          query_pitch(padded_size<T>(in.query.channels)),
          value_pitch(padded_size<T>(in.value.channels)),
          scratch(elements(in, plan, units)),
          weights(in, plan, units.group, scratch),
          value(scratch.take(in.value.channels * pitch)),
          score_grads(scratch.take(plan.tokens * pitch)),
          bias_grads(scratch.take(has_bias ? units.group * plan.tokens * pitch : 0)),
          key(scratch.take(plan.tokens * query_pitch)),
          out(scratch.take(plan.tokens * value_pitch)),
          result(scratch.take(plan.tokens * std::max(query_pitch, value_pitch))),
          values(in.value, plan),
          outs(grads.out, plan),
          query_grads(grads.query, plan),
          key_grads(grads.key, plan),
          value_grads(grads.value, plan),
          window(plan),
          padding(plan.tokens) {}

    void enter(int64_t unit) {
        weights.enter_heads(units.first_head(unit), units.end_head(unit));
        window.enter(units.window(unit));
        weights.enter(window);
        for (auto* tokens : {&values, &outs}) tokens->enter(window);
        for (auto* tokens : {&query_grads, &key_grads, &value_grads}) tokens->enter(window);
    }
    void compute(int64_t head) {
        const int64_t tokens = plan.tokens;
        for (auto* each : {&values, &outs}) each->enter_head(head);
        for (auto* each : {&query_grads, &key_grads, &value_grads}) each->enter_head(head);
        weights.compute(window, head, values, outs);
        values.read_columns(value, pitch);
        for (int64_t c = 0; c < values.tensor.channels; ++c) padding.clear(value + c * pitch);  // 0 * inf is NaN
        outs.read_rows(out, value_pitch);
        product<T>({out, value_pitch, 1}, value, pitch, score_grads, pitch, tokens, pitch, values.tensor.channels);
        T* const bias_grad = has_bias ? bias_grads + (head - weights.first_head) * tokens * pitch : nullptr;
        softmax_backward(weights.scores, score_grads, weights.totals, window, pitch, bias_grad);
        product<T>({weights.scores, 1, pitch}, out, value_pitch, result, value_pitch, tokens, value_pitch, tokens);
        value_grads.write_rows(result, value_pitch, T(1));
        product<T>({score_grads, 1, pitch}, weights.query, query_pitch, result, query_pitch, tokens, query_pitch,
                   tokens);
        key_grads.write_rows(result, query_pitch, T(1));
        weights.keys.read_rows(key, query_pitch);
        product<T>({score_grads, pitch, 1}, key, query_pitch, result, query_pitch, tokens, query_pitch, tokens);
        query_grads.write_rows(result, query_pitch, T(plan.problem.scale));
    }
    // Adds the collected gradients of the bias to a table, and clears them.
    void flush_bias(int64_t unit, double* table) {
        const int64_t tokens = plan.tokens, head = units.first_head(unit), count = units.end_head(unit) - head;
        for (int64_t row = 0; row < count * tokens; ++row) {
            double* const to = table + (head + row / tokens) * plan.table;
            for (int64_t t = 0; t < tokens; ++t) {
                to[plan.relative(row % tokens, t)] += bias_grads[row * pitch + t];
                bias_grads[row * pitch + t] = 0;
            }
        }
    }
};

template <typename T, typename Stored>
void backward(const Inputs<T, Stored>& in, const Grads<T, Stored>& grads) {
    const Plan plan(in.problem);
    const Units units(plan, sizeof(T));
    const int64_t heads = in.problem.heads;
    std::vector<std::vector<double>> tables(size_t(in.problem.threads));
    in_parallel(units.count, in.problem.threads, [&](int thread, int64_t unit, int64_t end) {
        std::vector<double>& table = tables[size_t(thread)];
        Backward<T, Stored> pass(in, grads, plan, units);
        if (in.bias) table.assign(size_t(heads * plan.table), 0.0);
        for (; unit < end; ++unit) {
            pass.enter(unit);
            for (int64_t head = units.first_head(unit); head < units.end_head(unit); ++head) pass.compute(head);
            // Flush between changes of the heads too: nested short sums round less than one long sum.
            const bool is_last = unit + 1 == end || units.window(unit + 1) == 0 || unit % 16 == 15;
            if (in.bias && is_last) pass.flush_bias(unit, table.data());
        }
    });
    for (int64_t i = 0; in.bias && i < heads * plan.table; ++i) {
        double sum = 0;
        for (const auto& table : tables) sum += table.empty() ? 0.0 : table[size_t(i)];
        grads.bias[i] = T(sum);
    }
}

template <typename T, typename Stored>
Inputs<T, Stored> inputs(const Problem& p, const Operand* o, const void* bias) {
    return {p, tensor<const Stored>(o[0], p.query_dim), tensor<const Stored>(o[1], p.query_dim),
            tensor<const Stored>(o[2], p.value_dim), static_cast<const T*>(bias)};
}

// Operands: query, key, value; the output, to write.
REGARD_EXPORT int regard_window_forward(int64_t dtype, const Problem* problem, const Operand* o, const void* bias) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        forward<T, Stored>(inputs<T, Stored>(*problem, o, bias), tensor<Stored>(o[3], problem->value_dim));
    });
}

// Operands: query, key, value, gradient of the output; gradients of query, key and value, to write. The last argument
// is the gradient of the bias, to write.
REGARD_EXPORT int regard_window_backward(int64_t dtype, const Problem* problem, const Operand* o, const void* bias,
                                         void* bias_grad) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        const Grads<T, Stored> grads{tensor<const Stored>(o[3], problem->value_dim),
                                     tensor<Stored>(o[4], problem->query_dim), tensor<Stored>(o[5], problem->query_dim),
                                     tensor<Stored>(o[6], problem->value_dim), static_cast<T*>(bias_grad)};
        backward<T, Stored>(inputs<T, Stored>(*problem, o, bias), grads);
    });
}

}  // namespace regard::window
