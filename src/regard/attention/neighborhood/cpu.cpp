// Neighborhood attention on the CPU, forward and backward, for grids of three axes (missing ones have length 1).
//
// The lanes of a vector are adjacent places of a row. The forward pass and the first backward pass walk over queries
// and their keys. The second backward pass walks over keys and their queries, so every gradient is written once, by one
// thread. The forward pass leaves one number per query and head, the first backward pass two more.
#include "driver.h"

namespace regard::neighborhood {

template <typename T, typename Stored>
struct Forward : Pass<T, Stored> {
    using Base = Pass<T, Stored>;
    using Base::n, Base::scratch;
    RingTensor<T, const Stored> keys, values;
    BlockTensor<T, const Stored> queries;
    BlockTensor<T, Stored> outs;
    BlockTensor<T, T> lses;
    T* scores[2];

    Forward(const Inputs<T, Stored>& in, const Schedule<T>& schedule, Tensor<Stored> out, Tensor<T> lse)
        : Base(in, schedule, demand(in)),
          keys(in.key, scratch, schedule),
          values(in.value, scratch, schedule),
          queries(in.query, scratch, T(in.problem.scale)),
          outs(out, scratch),
          lses(lse, scratch),
          scores{this->take_scores(), this->take_scores()} {}
    static Demand demand(const Inputs<T, Stored>& in) {
        const int64_t channels = in.query.channels + in.value.channels;
        return {channels, channels + 1, 2, in.bias ? 1 : 0};
    }
    template <typename Function>
    void each_ring(Function f) {
        f(keys), f(values);
    }
    template <typename Function>
    void each_block(Function f) {
        f(queries), f(outs), f(lses);
    }

    void compute(const Walk<T>& walk, const Line& line, const Block<T>& block) {
        Vector<T> totals[2];
        queries.read(walk, line, block);
        walk.dots(line, block, keys.ring, queries.lines, scores);
        for (int l = 0; l < line.count; ++l) {
            totals[l] = softmax(walk, line, l, block);
            lses.write(walk, line, block, l, splat(T(1)));
        }
        outs.clear();
        walk.sums(line, block, values.ring, scores, outs.lines);
        for (int l = 0; l < line.count; ++l) outs.write(walk, line, block, l, splat(T(1)) / totals[l]);
    }

   private:
    // Turns one line's scores into exp(logit - maximum) and returns their sums. Stores the log-sum-exp.
    Vector<T> softmax(const Walk<T>& walk, const Line& line, int l, const Block<T>& block) {
        T* const weights = scores[l];
        Vector<T> max_logit = splat(kMasked<T>), sum = splat(T(0)), lse;
        this->for_logits(walk, line, l, block, weights, [&](Vector<T> logit, int, int, int64_t score, int) {
            store(weights + score, logit);
            max_logit = maximum<T>(max_logit, logit);
        });
        walk.rows(line, l, [&](int, int, int64_t offset, int64_t) {
            for (int t = 0; t < block.max_count; ++t) {
                const Vector<T> weight = exponential(load(weights + offset + t * n) - max_logit);
                store(weights + offset + t * n, weight);
                sum += weight;
            }
        });
        for (int lane = 0; lane < n; ++lane) lse[lane] = max_logit[lane] + std::log(sum[lane]);
        store(lses.lines[l], lse);
        return sum;
    }
};

// The gradients of query and bias, and two statistics per query for the other pass: the weighted mean of its weights'
// gradients, and the factor that normalizes its weights, since those from a rounded log-sum-exp do not sum to 1.
template <typename T, typename Stored>
struct BackwardQuery : Pass<T, Stored> {
    using Base = Pass<T, Stored>;
    using Base::n, Base::scratch;
    RingTensor<T, const Stored> keys, values;
    BlockTensor<T, const Stored> queries, outs;
    BlockTensor<T, const T> lses;
    BlockTensor<T, T> means, norms;
    BlockTensor<T, Stored> query_grads;
    T *scores[2], *score_grads[2];  // gradients of weights, then of logits
    BiasLanes<T> bias_grads;
    std::vector<double>& table;  // the thread's gradient of the bias

    BackwardQuery(const Inputs<T, Stored>& in, const Schedule<T>& schedule, Tensor<const Stored> out_grad,
                  Tensor<const T> lse, Tensor<T> mean, Tensor<T> norm, Tensor<Stored> query_grad,
                  std::vector<double>& table)
        : Base(in, schedule, demand(in)),
          keys(in.key, scratch, schedule),
          values(in.value, scratch, schedule),
          queries(in.query, scratch, T(in.problem.scale)),
          outs(out_grad, scratch),
          lses(lse, scratch),
          means(mean, scratch),
          norms(norm, scratch),
          query_grads(query_grad, scratch),
          scores{this->take_scores(), this->take_scores()},
          score_grads{this->take_scores(), this->take_scores()},
          table(table) {
        if (!in.bias) return;
        bias_grads = BiasLanes<T>(scratch, schedule);
        const int64_t size = schedule.relatives(0) * schedule.relatives(1) * schedule.relatives(2);
        table.assign(size_t(in.problem.heads * size), 0.0);
    }
    static Demand demand(const Inputs<T, Stored>& in) {
        return {in.key.channels + in.value.channels, 2 * in.query.channels + in.value.channels + 3, 4, in.bias ? 2 : 0};
    }
    template <typename Function>
    void each_ring(Function f) {
        f(keys), f(values);
    }
    template <typename Function>
    void each_block(Function f) {
        f(queries), f(outs), f(lses), f(means), f(norms), f(query_grads);
    }

    void compute(const Walk<T>& walk, const Line& line, const Block<T>& block) {
        queries.read(walk, line, block);
        outs.read(walk, line, block);
        lses.read(walk, line, block);
        walk.dots(line, block, keys.ring, queries.lines, scores);
        walk.dots(line, block, values.ring, outs.lines, score_grads);
        for (int l = 0; l < line.count; ++l) softmax_backward(walk, line, l, block);
        query_grads.clear();
        walk.sums(line, block, keys.ring, score_grads, query_grads.lines);
        for (int l = 0; l < line.count; ++l) {
            norms.write(walk, line, block, l, splat(T(1)));
            means.write(walk, line, block, l, splat(T(1)));
            query_grads.write(walk, line, block, l, splat(T(this->in.problem.scale)));
        }
    }
    void finish_unit(const Walk<T>& walk) {
        if (!bias_grads) return;
        bias_grads.match(walk, [&](T& lane, int64_t index) { table[size_t(index)] += lane; });
        bias_grads.clear();  // unused lanes too
    }

   private:
    void softmax_backward(const Walk<T>& walk, const Line& line, int l, const Block<T>& block) {
        T *const weights = scores[l], *const grads = score_grads[l], *const biases = bias_grads.of(block);
        const Vector<T> shift = load(lses.lines[l]);
        Vector<T> total = splat(T(0)), grad_sum = splat(T(0));
        this->for_logits(walk, line, l, block, weights, [&](Vector<T> logit, int, int, int64_t score, int t) {
            const Vector<T> weight = exponential(logit - shift);
            const Vector<T> grad = where_neighbor(block, t, load(grads + score), T(0));
            store(weights + score, weight);
            store(grads + score, grad);
            total += weight;
            grad_sum += weight * grad;
        });
        const Vector<T> norm = splat(T(1)) / total, mean = grad_sum * norm;
        store(norms.lines[l], norm);
        store(means.lines[l], mean);
        walk.rows(line, l, [&](int, int, int64_t offset, int64_t relative) {
            for (int t = 0; t < block.max_count; ++t) {
                const int64_t score = offset + t * n;
                const Vector<T> grad = load(weights + score) * norm * (load(grads + score) - mean);
                store(grads + score, grad);
                if (biases) store(biases + relative + t * n, load(biases + relative + t * n) + grad);
            }
        });
    }
};

// The gradients of key and value: a walk over keys and their queries.
template <typename T, typename Stored>
struct BackwardKey : Pass<T, Stored> {
    using Base = Pass<T, Stored>;
    using Base::scratch;
    RingTensor<T, const Stored> queries, outs;
    RingTensor<T, const T> lses, means, norms;
    BlockTensor<T, const Stored> keys, values;
    BlockTensor<T, Stored> key_grads, value_grads;
    T *scores[2], *score_grads[2];

    BackwardKey(const Inputs<T, Stored>& in, const Schedule<T>& schedule, Tensor<const Stored> out_grad,
                Tensor<const T> lse, Tensor<const T> mean, Tensor<const T> norm, Tensor<Stored> key_grad,
                Tensor<Stored> value_grad)
        : Base(in, schedule, demand(in)),
          queries(in.query, scratch, schedule, T(in.problem.scale)),
          outs(out_grad, scratch, schedule),
          lses(lse, scratch, schedule),
          means(mean, scratch, schedule),
          norms(norm, scratch, schedule),
          keys(in.key, scratch),
          values(in.value, scratch),
          key_grads(key_grad, scratch),
          value_grads(value_grad, scratch),
          scores{this->take_scores(), this->take_scores()},
          score_grads{this->take_scores(), this->take_scores()} {}
    static Demand demand(const Inputs<T, Stored>& in) {
        const int64_t channels = in.query.channels + in.value.channels;
        return {channels + 3, 2 * channels, 4, in.bias ? 1 : 0};
    }
    template <typename Function>
    void each_ring(Function f) {
        f(queries), f(outs), f(lses), f(means), f(norms);
    }
    template <typename Function>
    void each_block(Function f) {
        f(keys), f(values), f(key_grads), f(value_grads);
    }

    void compute(const Walk<T>& walk, const Line& line, const Block<T>& block) {
        keys.read(walk, line, block);
        values.read(walk, line, block);
        walk.dots(line, block, queries.ring, keys.lines, scores);
        walk.dots(line, block, outs.ring, values.lines, score_grads);
        for (int l = 0; l < line.count; ++l) softmax_backward(walk, line, l, block);
        key_grads.clear();
        value_grads.clear();
        walk.sums(line, block, queries.ring, score_grads, key_grads.lines);
        walk.sums(line, block, outs.ring, scores, value_grads.lines);
        for (int l = 0; l < line.count; ++l) {
            key_grads.write(walk, line, block, l, splat(T(1)));
            value_grads.write(walk, line, block, l, splat(T(1)));
        }
    }

   private:
    void softmax_backward(const Walk<T>& walk, const Line& line, int l, const Block<T>& block) {
        T *const weights = scores[l], *const grads = score_grads[l];
        this->for_logits(walk, line, l, block, weights, [&](Vector<T> logit, int z, int y, int64_t score, int t) {
            const Vector<T> shift = walk.neighbor(block, lses.ring, z, y, t);
            const Vector<T> norm = walk.neighbor(block, norms.ring, z, y, t);
            const Vector<T> mean = walk.neighbor(block, means.ring, z, y, t);
            const Vector<T> weight = where_neighbor(block, t, exponential(logit - shift) * norm, T(0));
            const Vector<T> grad = weight * (load(grads + score) - mean);
            store(weights + score, weight);
            store(grads + score, where_neighbor(block, t, grad, T(0)));
        });
    }
};

template <typename T, typename Stored>
Inputs<T, Stored> inputs(const Problem& p, const Operand* o, const void* bias) {
    return {p, tensor<const Stored>(o[0], p.query_dim), tensor<const Stored>(o[1], p.query_dim),
            tensor<const Stored>(o[2], p.value_dim), static_cast<const T*>(bias)};
}

template <typename T, typename Stored>
void forward(const Problem& p, const Operand* o, const void* bias, void* lse_data) {
    const auto in = inputs<T, Stored>(p, o, bias);
    const Schedule<T> schedule(p, false);
    const Statistics<T> lse(static_cast<T*>(lse_data), p);
    const Tensor<Stored> out = tensor<Stored>(o[3], p.value_dim);
    run_pass(schedule, p.threads, [&](int) { return Forward<T, Stored>(in, schedule, out, lse.tensor); });
}

template <typename T, typename Stored>
void backward(const Problem& p, const Operand* o, const void* bias, const void* lse_data, void* statistics,
              void* bias_grad) {
    const auto in = inputs<T, Stored>(p, o, bias);
    const Tensor<const Stored> out_grad = tensor<const Stored>(o[3], p.value_dim);
    const Tensor<Stored> query_grad = tensor<Stored>(o[4], p.query_dim), key_grad = tensor<Stored>(o[5], p.query_dim);
    const Tensor<Stored> value_grad = tensor<Stored>(o[6], p.value_dim);
    T* const means = static_cast<T*>(statistics);
    T* const norms = means + p.batch * p.heads * p.axes[0].length * p.axes[1].length * p.axes[2].length;
    const Statistics<const T> lse(static_cast<const T*>(lse_data), p), mean(means, p), norm(norms, p);
    const Statistics<T> mean_out(means, p), norm_out(norms, p);

    const Schedule<T> queries(p, false);
    std::vector<std::vector<double>> tables(size_t(p.threads));
    run_pass(queries, p.threads, [&](int thread) {
        return BackwardQuery<T, Stored>(in, queries, out_grad, lse.tensor, mean_out.tensor, norm_out.tensor, query_grad,
                                        tables[size_t(thread)]);
    });
    const int64_t table = p.heads * queries.relatives(0) * queries.relatives(1) * queries.relatives(2);
    for (int64_t i = 0; bias_grad && i < table; ++i) {
        double sum = 0;
        for (const auto& one : tables) sum += one.empty() ? 0.0 : one[size_t(i)];
        static_cast<T*>(bias_grad)[i] = T(sum);
    }

    const Schedule<T> keys(p, true);
    run_pass(keys, p.threads, [&](int) {
        return BackwardKey<T, Stored>(in, keys, out_grad, lse.tensor, mean.tensor, norm.tensor, key_grad, value_grad);
    });
}

// Operands: query, key, value; the output, to write.
REGARD_EXPORT int regard_neighborhood_forward(int64_t dtype, const Problem* problem, const Operand* o, const void* bias,
                                              void* lse) {
    return for_dtype(
        dtype, [&](auto value, auto stored) { forward<decltype(value), decltype(stored)>(*problem, o, bias, lse); });
}

// Operands: query, key, value, gradient of the output; gradients of query, key and value, to write. The last argument
// is the gradient of the bias, to write.
REGARD_EXPORT int regard_neighborhood_backward(int64_t dtype, const Problem* problem, const Operand* o,
                                               const void* bias, const void* lse, void* statistics, void* bias_grad) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        backward<decltype(value), decltype(stored)>(*problem, o, bias, lse, statistics, bias_grad);
    });
}

}  // namespace regard::neighborhood
