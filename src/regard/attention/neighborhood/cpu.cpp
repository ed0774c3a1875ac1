// Neighborhood attention on the CPU, forward and backward, for grids of three axes (missing ones have length 1).
//
// Lanes of a vector are neighboring positions of a row. The forward pass and the first backward pass walk over queries
// and their keys; the second backward pass walks over keys and the queries that see them, so that every gradient is
// written once, by one thread. The forward pass leaves one number per query and head, the first backward pass two more.
#include "schedule.h"

namespace regard {

// Numbers per head and grid position, [B, *grid, nh], contiguous.
template <typename T>
struct PerHead {
    int64_t strides[6];
    Tensor<T> tensor;

    PerHead(T* data, const Problem& problem) {
        strides[5] = strides[4] = 1;
        strides[3] = problem.heads;
        for (int axis = 2; axis >= 0; --axis) strides[axis] = strides[axis + 1] * problem.axes[axis].length;
        tensor = {data, strides, 1};
    }
    PerHead(const PerHead&) = delete;
};

// The memory of one thread, handed out piece by piece.
template <typename T>
struct Scratch {
    static constexpr int n = kLanes<T>;
    const Schedule<T>& schedule;
    T *start, *left;

    Scratch(const Schedule<T>& schedule, int64_t ring_channels, int64_t own_channels, int64_t lines_of_scores,
            int64_t biases)
        : schedule(schedule),
          start(arena<T>(Ring<T>::elements(schedule, ring_channels) + 2 * own_channels * n +
                         lines_of_scores * schedule.scores() * n + biases * BiasLanes<T>::elements(schedule))),
          left(start) {}
    Scratch(const Scratch&) = delete;
    ~Scratch() { arena<T>(0); }
    T* take(int64_t elements) {
        left += elements;
        return left - elements;
    }
    T* scores() { return take(int64_t(schedule.scores()) * n); }
    BiasLanes<T> bias(bool wanted) {
        return BiasLanes<T>(take(wanted ? BiasLanes<T>::elements(schedule) : 0), schedule);
    }
};

template <typename T, typename Stored>
struct Inputs {
    const Problem& problem;
    Tensor<const Stored> query, key, value;
    const T* bias;  // [nh, relative planes, rows, columns], or null
};

// A block's values at partner t, with another value in the lanes that have no such partner.
template <typename T>
Vector<T> seen(const Block<T>& block, int t, Vector<T> values, T elsewhere) {
    if (!block.ragged) return values;
    return t < block.count ? values : splat(elsewhere);
}

// Turns a line's dot products into logits, and those beyond a lane's partners into -inf. Calls
// f(logits, partners' plane and row, their offset in the scores, t).
template <typename T, typename Function>
void for_logits(const Walk<T>& walk, const Line& line, int l, const Block<T>& block, T* scores, const T* bias,
                Function f) {
    constexpr int n = kLanes<T>;
    walk.rows(line, l, [&](int z, int y, int64_t offset, int64_t relative) {
        for (int t = 0; t < block.most; ++t) {
            Vector<T> logit = load(scores + offset + t * n);
            if (bias) logit += load(bias + relative + t * n);
            f(seen(block, t, logit, kHidden<T>), z, y, offset + t * n, t);
        }
    });
}

template <typename T, typename Stored>
void forward(const Inputs<T, Stored>& in, Tensor<Stored> out, T* lse_data) {
    constexpr int n = kLanes<T>;
    const Schedule<T> schedule(in.problem, false);
    const PerHead<T> lse(lse_data, in.problem);
    const int64_t channels = in.query.channels + in.value.channels;
    in_parallel(schedule.units, in.problem.threads, [&](int, int64_t unit, int64_t end) {
        Scratch<T> scratch(schedule, channels, channels, 2, in.bias != nullptr);
        Source<T, const Stored> keys(in.key, scratch.left, schedule), values(in.value, scratch.left, schedule);
        Own<T, const Stored> queries(in.query, scratch.left, T(in.problem.scale));
        Own<T, Stored> outs(out, scratch.left);
        T* const scores[2] = {scratch.scores(), scratch.scores()};
        const BiasLanes<T> bias = scratch.bias(in.bias);
        Walk<T> walk(schedule);
        std::vector<int64_t> to_lse;
        for (; unit < end; ++unit) {
            const bool changed = walk.enter(unit);
            if (changed) to_lse = walk.offsets(lse.tensor, walk.first_lane(), walk.end_lane());
            if (changed && in.bias) bias.match(walk, [&](T& here, int64_t index) { here = in.bias[index]; });
            keys.enter(walk, changed);
            values.enter(walk, changed);
            queries.enter(walk, changed);
            outs.enter(walk, changed);
            walk.lines([&](const Line& line) {
                walk.partners(line, [&](int z, int y, int, int) {
                    keys.fetch(walk, z, y);
                    values.fetch(walk, z, y);
                });
                for (const Block<T>& block : walk.tile->blocks) {
                    Vector<T> total[2];
                    queries.read(walk, line, block);
                    walk.dots(line, block, keys.ring, queries.lines, scores);
                    for (int l = 0; l < line.count; ++l) {
                        Vector<T> highest = splat(kHidden<T>), sum = splat(T(0));
                        for_logits(walk, line, l, block, scores[l], in.bias ? bias.of(block) : nullptr,
                                   [&](Vector<T> logit, int, int, int64_t score, int) {
                                       store(scores[l] + score, logit);
                                       highest = maximum<T>(highest, logit);
                                   });
                        walk.rows(line, l, [&](int, int, int64_t offset, int64_t) {
                            for (int t = 0; t < block.most; ++t) {
                                const Vector<T> weight = exponential(load(scores[l] + offset + t * n) - highest);
                                store(scores[l] + offset + t * n, weight);
                                sum += weight;
                            }
                        });
                        T* const to = walk.row(lse.tensor, line.z, line.y + l);
                        for (int lane = 0; lane < block.valid; ++lane) {
                            to[to_lse[block.lane - walk.first_lane() + lane]] = highest[lane] + std::log(sum[lane]);
                        }
                        total[l] = sum;
                    }
                    outs.clear();
                    walk.sums(line, block, values.ring, scores, outs.lines);
                    for (int l = 0; l < line.count; ++l) outs.write(walk, line, block, l, splat(T(1)) / total[l]);
                }
            });
        }
    });
}

// Gradients of query and bias. Also what the other pass needs per query: the mean of its weights' gradients, and by how
// much the weights that the rounded log-sum-exp gives miss a sum of 1.
template <typename T, typename Stored>
void backward_query(const Inputs<T, Stored>& in, Tensor<const Stored> out_gradient, const T* lse_data, T* means_data,
                    T* norms_data, Tensor<Stored> query_gradient, T* bias_gradient) {
    constexpr int n = kLanes<T>;
    const Schedule<T> schedule(in.problem, false);
    const PerHead<const T> lse(lse_data, in.problem);
    const PerHead<T> mean(means_data, in.problem), norm(norms_data, in.problem);
    const int64_t ring_channels = in.key.channels + in.value.channels;
    const int64_t own_channels = 2 * in.query.channels + out_gradient.channels + 3;
    const int64_t table = in.problem.heads * schedule.relatives(0) * schedule.relatives(1) * schedule.relatives(2);
    std::vector<std::vector<double>> tables(size_t(in.problem.threads));
    in_parallel(schedule.units, in.problem.threads, [&](int thread, int64_t unit, int64_t end) {
        Scratch<T> scratch(schedule, ring_channels, own_channels, 4, 2 * (in.bias != nullptr));
        Source<T, const Stored> keys(in.key, scratch.left, schedule), values(in.value, scratch.left, schedule);
        Own<T, const Stored> queries(in.query, scratch.left, T(in.problem.scale)), outs(out_gradient, scratch.left);
        Own<T, const T> lses(lse.tensor, scratch.left);
        Own<T, T> means(mean.tensor, scratch.left), norms(norm.tensor, scratch.left);
        Own<T, Stored> gradients(query_gradient, scratch.left);
        T* const scores[2] = {scratch.scores(), scratch.scores()};
        T* const slopes[2] = {scratch.scores(), scratch.scores()};  // gradients of weights, then of logits
        const BiasLanes<T> bias = scratch.bias(in.bias), collected = scratch.bias(in.bias);
        if (bias_gradient) tables[thread].assign(size_t(table), 0.0);
        Walk<T> walk(schedule);
        const auto hand_in = [&] {
            collected.match(walk, [&](T& here, int64_t index) { tables[thread][size_t(index)] += here; });
            std::memset(collected.memory, 0, sizeof(T) * BiasLanes<T>::elements(schedule));  // unused lanes' sums, too
        };
        for (; unit < end; ++unit) {
            const bool changed = walk.enter(unit);
            if (changed && in.bias) bias.match(walk, [&](T& here, int64_t index) { here = in.bias[index]; });
            keys.enter(walk, changed);
            values.enter(walk, changed);
            queries.enter(walk, changed);
            outs.enter(walk, changed);
            lses.enter(walk, changed);
            means.enter(walk, changed);
            norms.enter(walk, changed);
            gradients.enter(walk, changed);
            walk.lines([&](const Line& line) {
                walk.partners(line, [&](int z, int y, int, int) {
                    keys.fetch(walk, z, y);
                    values.fetch(walk, z, y);
                });
                for (const Block<T>& block : walk.tile->blocks) {
                    queries.read(walk, line, block);
                    outs.read(walk, line, block);
                    lses.read(walk, line, block);
                    walk.dots(line, block, keys.ring, queries.lines, scores);
                    walk.dots(line, block, values.ring, outs.lines, slopes);
                    for (int l = 0; l < line.count; ++l) {
                        const Vector<T> shift = load(lses.lines[l]);
                        Vector<T> total = splat(T(0)), slope_sum = splat(T(0));
                        for_logits(walk, line, l, block, scores[l], in.bias ? bias.of(block) : nullptr,
                                   [&](Vector<T> logit, int, int, int64_t score, int t) {
                                       const Vector<T> weight = exponential(logit - shift);
                                       const Vector<T> slope = seen(block, t, load(slopes[l] + score), T(0));
                                       store(scores[l] + score, weight);
                                       store(slopes[l] + score, slope);
                                       total += weight;
                                       slope_sum += weight * slope;
                                   });
                        const Vector<T> norm = splat(T(1)) / total, slope_mean = slope_sum * norm;
                        store(norms.lines[l], norm);
                        store(means.lines[l], slope_mean);
                        norms.write(walk, line, block, l, splat(T(1)));
                        means.write(walk, line, block, l, splat(T(1)));
                        T* const gathered = bias_gradient ? collected.of(block) : nullptr;
                        walk.rows(line, l, [&](int, int, int64_t offset, int64_t relative) {
                            for (int t = 0; t < block.most; ++t) {
                                const int64_t score = offset + t * n;
                                const Vector<T> slope =
                                    load(scores[l] + score) * norm * (load(slopes[l] + score) - slope_mean);
                                store(slopes[l] + score, slope);
                                if (bias_gradient)
                                    store(gathered + relative + t * n, load(gathered + relative + t * n) + slope);
                            }
                        });
                    }
                    gradients.clear();
                    walk.sums(line, block, keys.ring, slopes, gradients.lines);
                    for (int l = 0; l < line.count; ++l)
                        gradients.write(walk, line, block, l, splat(T(in.problem.scale)));
                }
            });
            if (bias_gradient) hand_in();
        }
    });
    for (int64_t i = 0; bias_gradient && i < table; ++i) {
        double sum = 0;
        for (const auto& one : tables) sum += one.empty() ? 0.0 : one[size_t(i)];
        bias_gradient[i] = T(sum);
    }
}

// Gradients of key and value: a walk over keys and the queries that see them.
template <typename T, typename Stored>
void backward_key(const Inputs<T, Stored>& in, Tensor<const Stored> out_gradient, const T* lse_data,
                  const T* means_data, const T* norms_data, Tensor<Stored> key_gradient,
                  Tensor<Stored> value_gradient) {
    const Schedule<T> schedule(in.problem, true);
    const PerHead<const T> lse(lse_data, in.problem), mean(means_data, in.problem), norm(norms_data, in.problem);
    const int64_t channels = in.query.channels + in.value.channels;
    in_parallel(schedule.units, in.problem.threads, [&](int, int64_t unit, int64_t end) {
        Scratch<T> scratch(schedule, channels + 3, 2 * channels, 4, in.bias != nullptr);
        Source<T, const Stored> queries(in.query, scratch.left, schedule, T(in.problem.scale));
        Source<T, const Stored> outs(out_gradient, scratch.left, schedule);
        Source<T, const T> lses(lse.tensor, scratch.left, schedule), means(mean.tensor, scratch.left, schedule);
        Source<T, const T> norms(norm.tensor, scratch.left, schedule);
        Own<T, const Stored> keys(in.key, scratch.left), values(in.value, scratch.left);
        Own<T, Stored> key_gradients(key_gradient, scratch.left), value_gradients(value_gradient, scratch.left);
        T* const scores[2] = {scratch.scores(), scratch.scores()};
        T* const slopes[2] = {scratch.scores(), scratch.scores()};
        const BiasLanes<T> bias = scratch.bias(in.bias);
        Walk<T> walk(schedule);
        for (; unit < end; ++unit) {
            const bool changed = walk.enter(unit);
            if (changed && in.bias) bias.match(walk, [&](T& here, int64_t index) { here = in.bias[index]; });
            queries.enter(walk, changed);
            outs.enter(walk, changed);
            lses.enter(walk, changed);
            means.enter(walk, changed);
            norms.enter(walk, changed);
            keys.enter(walk, changed);
            values.enter(walk, changed);
            key_gradients.enter(walk, changed);
            value_gradients.enter(walk, changed);
            walk.lines([&](const Line& line) {
                walk.partners(line, [&](int z, int y, int, int) {
                    queries.fetch(walk, z, y);
                    outs.fetch(walk, z, y);
                    lses.fetch(walk, z, y);
                    means.fetch(walk, z, y);
                    norms.fetch(walk, z, y);
                });
                for (const Block<T>& block : walk.tile->blocks) {
                    keys.read(walk, line, block);
                    values.read(walk, line, block);
                    walk.dots(line, block, queries.ring, keys.lines, scores);
                    walk.dots(line, block, outs.ring, values.lines, slopes);
                    for (int l = 0; l < line.count; ++l) {
                        for_logits(walk, line, l, block, scores[l], in.bias ? bias.of(block) : nullptr,
                                   [&](Vector<T> logit, int z, int y, int64_t score, int t) {
                                       const Vector<T> shift = walk.partner(block, lses.ring, z, y, t);
                                       const Vector<T> norm = walk.partner(block, norms.ring, z, y, t);
                                       const Vector<T> slope_mean = walk.partner(block, means.ring, z, y, t);
                                       const Vector<T> weight = seen(block, t, exponential(logit - shift) * norm, T(0));
                                       const Vector<T> slope = weight * (load(slopes[l] + score) - slope_mean);
                                       store(scores[l] + score, weight);
                                       store(slopes[l] + score, seen(block, t, slope, T(0)));
                                   });
                    }
                    key_gradients.clear();
                    value_gradients.clear();
                    walk.sums(line, block, queries.ring, slopes, key_gradients.lines);
                    walk.sums(line, block, outs.ring, scores, value_gradients.lines);
                    for (int l = 0; l < line.count; ++l) {
                        key_gradients.write(walk, line, block, l, splat(T(1)));
                        value_gradients.write(walk, line, block, l, splat(T(1)));
                    }
                }
            });
        }
    });
}

}  // namespace regard

// The C interface; see for_dtype.
namespace {

using namespace regard;

template <typename T, typename Stored>
Inputs<T, Stored> inputs(const Problem& problem, const Operand* o, const void* bias) {
    return {problem,
            {static_cast<const Stored*>(o[0].data), o[0].strides, problem.query_dim},
            {static_cast<const Stored*>(o[1].data), o[1].strides, problem.query_dim},
            {static_cast<const Stored*>(o[2].data), o[2].strides, problem.value_dim},
            static_cast<const T*>(bias)};
}

template <typename T, typename Stored>
void run_forward(const Problem& problem, const Operand* o, const void* bias, void* lse) {
    forward<T, Stored>(inputs<T, Stored>(problem, o, bias),
                       {static_cast<Stored*>(o[3].data), o[3].strides, problem.value_dim}, static_cast<T*>(lse));
}

template <typename T, typename Stored>
void run_backward(const Problem& problem, const Operand* o, const void* bias, const void* lse, void* statistics,
                  void* bias_gradient) {
    const auto in = inputs<T, Stored>(problem, o, bias);
    T* const means = static_cast<T*>(statistics);
    T* const norms = means + problem.batch * problem.heads * problem.axes[0].length * problem.axes[1].length *
                                 problem.axes[2].length;
    const Tensor<const Stored> out_gradient{static_cast<const Stored*>(o[3].data), o[3].strides, problem.value_dim};
    backward_query<T, Stored>(in, out_gradient, static_cast<const T*>(lse), means, norms,
                              {static_cast<Stored*>(o[4].data), o[4].strides, problem.query_dim},
                              static_cast<T*>(bias_gradient));
    backward_key<T, Stored>(in, out_gradient, static_cast<const T*>(lse), means, norms,
                            {static_cast<Stored*>(o[5].data), o[5].strides, problem.query_dim},
                            {static_cast<Stored*>(o[6].data), o[6].strides, problem.value_dim});
}

}  // namespace

// operands: query, key, value, out.
REGARD_EXPORT int regard_neighborhood_forward(int64_t dtype, const Problem* problem, const Operand* operands,
                                              const void* bias, void* lse) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        run_forward<decltype(value), decltype(stored)>(*problem, operands, bias, lse);
    });
}

// operands: query, key, value, gradient of out; gradients of query, key, value to write.
REGARD_EXPORT int regard_neighborhood_backward(int64_t dtype, const Problem* problem, const Operand* operands,
                                               const void* bias, const void* lse, void* statistics,
                                               void* bias_gradient) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        run_backward<decltype(value), decltype(stored)>(*problem, operands, bias, lse, statistics, bias_gradient);
    });
}
