// What the three passes of neighborhood attention share: inputs, scratch memory, and the loop over units, lines and
// blocks.
#pragma once

#include "lines.h"

namespace regard::neighborhood {

template <typename T, typename Stored>
struct Inputs {
    const Problem& problem;
    Tensor<const Stored> query, key, value;
    const T* bias;  // [nh, relative planes, rows, columns], or null
};

// The scratch memory of a pass: channels of its ring tensors and block tensors, lines of scores, and layouts of the
// bias.
struct Demand {
    int64_t ring_channels, block_channels, score_lines, biases;

    template <typename T>
    int64_t elements(const Schedule<T>& schedule) const {
        return Ring<T>::elements(schedule, ring_channels) + 2 * block_channels * kLanes<T> +
               score_lines * schedule.scores() * kLanes<T> + biases * BiasLanes<T>::elements(schedule);
    }
};

// Returns the values of a block at neighbor t, and `otherwise` in the lanes that have no such neighbor.
template <typename T>
inline Vector<T> where_neighbor(const Block<T>& block, int t, Vector<T> values, T otherwise) {
    if (!block.is_ragged) return values;
    return t < block.count ? values : splat(otherwise);
}

// The base of the passes: one thread's scratch memory, scores and bias.
template <typename T, typename Stored>
struct Pass {
    static constexpr int n = kLanes<T>;
    const Inputs<T, Stored>& in;
    const Schedule<T>& schedule;
    Scratch<T> scratch;
    BiasLanes<T> bias;

    Pass(const Inputs<T, Stored>& in, const Schedule<T>& schedule, const Demand& demand)
        : in(in),
          schedule(schedule),
          scratch(demand.elements(schedule)) {
        if (in.bias) bias = BiasLanes<T>(scratch, schedule);
    }
    T* take_scores() { return scratch.take(int64_t(schedule.scores()) * n); }

    void enter(const Walk<T>& walk) {
        if (bias) bias.match(walk, [&](T& lane, int64_t index) { lane = in.bias[index]; });
    }
    void finish_unit(const Walk<T>&) {}

    // Turns the dot products of one line into logits, -inf in the lanes without neighbor t. Calls f(logits, z and y of
    // the neighbors' line, offset in the scores, t).
    template <typename Function>
    void for_logits(const Walk<T>& walk, const Line& line, int l, const Block<T>& block, const T* scores, Function f) {
        const T* const biases = bias.of(block);
        walk.rows(line, l, [&](int z, int y, int64_t offset, int64_t relative) {
            for (int t = 0; t < block.max_count; ++t) {
                Vector<T> logit = load(scores + offset + t * n);
                if (biases) logit += load(biases + relative + t * n);
                f(where_neighbor(block, t, logit, kMasked<T>), z, y, offset + t * n, t);
            }
        });
    }
};

// Runs a pass in parallel. `make_pass(thread)` returns the pass of one thread, which computes one block at a time.
// `each_ring` and `each_block` of a pass call a function with each of its ring tensors or block tensors.
template <typename T, typename MakePass>
void run_pass(const Schedule<T>& schedule, int64_t threads, MakePass make_pass) {
    in_parallel(schedule.units, threads, [&](int thread, int64_t unit, int64_t end) {
        auto pass = make_pass(thread);
        Walk<T> walk(schedule);
        for (; unit < end; ++unit) {
            const bool changed = walk.enter(unit);
            const auto enter = [&](auto& tensor) { tensor.enter(walk, changed); };
            if (changed) pass.enter(walk);
            pass.each_ring(enter);
            pass.each_block(enter);
            walk.lines([&](const Line& line) {
                walk.neighbors(line, [&](int z, int y, int, int) {
                    pass.each_ring([&](auto& tensor) { tensor.fetch(walk, z, y); });
                });
                for (const Block<T>& block : walk.tile->blocks) pass.compute(walk, line, block);
            });
            pass.finish_unit(walk);
        }
    });
}

}  // namespace regard::neighborhood
