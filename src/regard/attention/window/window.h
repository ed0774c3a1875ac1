// The windows of a grid: which tokens each one has, and how windows and heads are divided among threads.
#pragma once

#include <algorithm>
#include <vector>

#include "../../native/tensors.h"

namespace regard::window {

struct Problem {
    int64_t batch, heads, query_dim, value_dim, threads;
    int64_t length[3], window[3], shift[3];  // a length is a multiple of its window
    double scale;
};

// What all threads share: the tokens of a window, and where the table has the bias of a pair of tokens.
struct Plan {
    const Problem& problem;
    int64_t tokens, windows, count[3], table = 1;
    std::vector<int64_t> cells;  // of every token in its window, three coordinates each
    std::vector<int64_t> index;  // of every token in a head's table, up to a constant
    int64_t middle = 0;          // index of the bias of a token with itself

    explicit Plan(const Problem& problem) : problem(problem), tokens(1), windows(problem.batch) {
        for (int axis = 0; axis < 3; ++axis) {
            tokens *= problem.window[axis];
            count[axis] = problem.length[axis] / problem.window[axis];
            windows *= count[axis];
            table *= 2 * problem.window[axis] - 1;
        }
        for (int64_t t = 0; t < tokens; ++t) {
            const int64_t plane = problem.window[1] * problem.window[2];
            cells.insert(cells.end(), {t / plane, t / problem.window[2] % problem.window[1], t % problem.window[2]});
        }
        for (int64_t t = 0; t < tokens; ++t) {
            int64_t at = 0;
            for (int axis = 0; axis < 3; ++axis) {
                at = at * (2 * problem.window[axis] - 1) + cells[size_t(3 * t + axis)];
            }
            index.push_back(at);
        }
        middle = index.back();
    }
    // The index of a pair's bias in a head's table, which is ordered by key minus query.
    int64_t relative(int64_t query, int64_t key) const { return index[size_t(key)] - index[size_t(query)] + middle; }
};

// The current window of a thread: the positions of its tokens, and which of them the shift has moved across a border.
template <typename T>
struct Window {
    const Plan& plan;
    int64_t batch = 0;
    bool is_mixed = false;          // whether it has tokens of different regions
    std::vector<int64_t> position;  // of every token, three coordinates each
    std::vector<T> region;          // of every token; -1 in padding lanes

    explicit Window(const Plan& plan)
        : plan(plan),
          position(size_t(3 * plan.tokens)),
          region(size_t(padded_size<T>(plan.tokens)), T(-1)) {}

    void enter(int64_t index) {
        const Problem& p = plan.problem;
        int64_t cell[3];
        for (int axis = 2; axis >= 0; --axis) {
            cell[axis] = index % plan.count[axis];
            index /= plan.count[axis];
        }
        batch = index;
        is_mixed = false;
        for (int64_t t = 0; t < plan.tokens; ++t) {
            int moved = 0;
            for (int axis = 0; axis < 3; ++axis) {
                const int64_t rolled = cell[axis] * p.window[axis] + plan.cells[size_t(3 * t + axis)] + p.shift[axis];
                const bool beyond = rolled >= p.length[axis];
                position[size_t(3 * t + axis)] = beyond ? rolled - p.length[axis] : rolled;
                moved = 2 * moved + beyond;
            }
            region[size_t(t)] = T(moved);
            is_mixed = is_mixed || moved != int(region[0]);
        }
    }
};

// The tokens of one tensor in the current window and head.
template <typename Stored>
struct Tokens {
    Tensor<Stored> tensor;
    std::vector<int64_t> offsets;
    Stored* first = nullptr;  // of the head

    Tokens(Tensor<Stored> tensor, const Plan& plan) : tensor(tensor), offsets(size_t(plan.tokens)) {}

    template <typename T>
    void enter(const Window<T>& window) {
        for (size_t t = 0; t < offsets.size(); ++t) {
            offsets[t] = window.batch * tensor.strides[0];
            for (int axis = 0; axis < 3; ++axis) offsets[t] += window.position[3 * t + axis] * tensor.strides[1 + axis];
        }
    }
    void enter_head(int64_t head) { first = tensor.data + head * tensor.strides[4]; }

    // Prefetches a token of the next head, which the hardware does not: it is adjacent in memory, but tokens are not.
    void prefetch(int64_t token) const {
        const auto* const next = reinterpret_cast<const char*>(first + offsets[size_t(token)] + tensor.strides[4]);
        for (int64_t byte = 0; byte < tensor.channels * int64_t(sizeof(Stored)); byte += 64) {
            __builtin_prefetch(next + byte);
        }
    }
    template <typename T>
    void read_rows(T* out, int64_t pitch, T factor = 1) const {  // [token][channel]
        for (size_t t = 0; t < offsets.size(); ++t) {
            const Stored* const from = first + offsets[t];
            read_channels<T>(out + int64_t(t) * pitch, pitch, from, tensor.channels, tensor.strides[5], factor);
        }
    }
    template <typename T>
    void read_columns(T* out, int64_t pitch) const {  // [channel][token]
        read_lanes<T>(out, pitch, first, offsets.data(), int(offsets.size()), tensor.channels, tensor.strides[5], T(1));
    }
    template <typename T>
    void write_rows(const T* in, int64_t pitch, T factor) const {
        for (size_t t = 0; t < offsets.size(); ++t) {
            write_channels<T>(in + int64_t(t) * pitch, first + offsets[t], tensor.channels, tensor.strides[5], factor);
        }
    }
};

constexpr int64_t kBiasBytes = 256 * 1024;  // of expanded biases per thread

// The units of work: all windows with one group of heads, then with the next. The biases of a group fit into the cache.
struct Units {
    const Plan& plan;
    int64_t group, count;

    Units(const Plan& plan, int64_t element_bytes) : plan(plan) {
        const int64_t one = plan.tokens * (plan.tokens + 16) * element_bytes;
        group = std::clamp<int64_t>(kBiasBytes / one, 1, plan.problem.heads);
        count = (plan.problem.heads + group - 1) / group * plan.windows;
    }
    int64_t first_head(int64_t unit) const { return unit / plan.windows * group; }
    int64_t end_head(int64_t unit) const { return std::min(first_head(unit) + group, plan.problem.heads); }
    int64_t window(int64_t unit) const { return unit % plan.windows; }
};

}  // namespace regard::window
