// The tensors of a pass: those whose lines are neighbors, those of the walk's own lines, and the relative bias.
#pragma once

#include "schedule.h"

namespace regard::neighborhood {

// A tensor whose lines are neighbors. They are transposed into a ring as the walk reaches them.
template <typename T, typename Stored>
struct RingTensor {
    Tensor<Stored> tensor;
    Ring<T> ring;
    T factor;
    std::vector<int64_t> offsets;

    RingTensor(Tensor<Stored> tensor, Scratch<T>& scratch, const Schedule<T>& schedule, T factor = 1)
        : tensor(tensor),
          ring(scratch, schedule, tensor.channels),
          factor(factor) {}

    void enter(const Walk<T>& walk, bool changed) {
        if (changed) offsets = walk.neighbor_offsets(tensor);
        ring.clear();
    }
    void fetch(const Walk<T>& walk, int z, int y) {
        if (!ring.claim(z, y)) return;
        read_lanes<T>(ring.at(z, y), ring.pitch, walk.row(tensor, z, y), offsets.data(), int(offsets.size()),
                      tensor.channels, tensor.strides[5], factor);
    }
};

// A tensor of the walk's own lines. It is read or written one block at a time, [channel][n] for each of two lines.
template <typename T, typename Stored>
struct BlockTensor {
    static constexpr int n = kLanes<T>;
    Tensor<Stored> tensor;
    T factor;
    T* lines[2];
    std::vector<int64_t> offsets;

    BlockTensor(Tensor<Stored> tensor, Scratch<T>& scratch, T factor = 1)
        : tensor(tensor),
          factor(factor),
          lines{scratch.take(tensor.channels * n), scratch.take(tensor.channels * n)} {}

    void enter(const Walk<T>& walk, bool changed) {
        if (changed) offsets = walk.lane_offsets(tensor);
    }
    void read(const Walk<T>& walk, const Line& line, const Block<T>& block) {
        for (int l = 0; l < line.count; ++l) {
            read_lanes<T>(lines[l], n, walk.row(tensor, line.z, line.y + l),
                          offsets.data() + block.lane - walk.first_lane(), block.valid, tensor.channels,
                          tensor.strides[5], factor);
        }
    }
    void clear() {
        for (T* line : lines) std::memset(line, 0, sizeof(T) * size_t(tensor.channels * n));
    }
    void write(const Walk<T>& walk, const Line& line, const Block<T>& block, int l, Vector<T> scale) const {
        write_lanes<T>(lines[l], walk.row(tensor, line.z, line.y + l), offsets.data() + block.lane - walk.first_lane(),
                       block.valid, tensor.channels, tensor.strides[5], scale);
    }
};

// Statistics per head and grid position, [B, *grid, nh], contiguous.
template <typename T>
struct Statistics {
    int64_t strides[6];
    Tensor<T> tensor;

    Statistics(T* data, const Problem& problem) {
        strides[5] = strides[4] = 1;
        strides[3] = problem.heads;
        for (int axis = 2; axis >= 0; --axis) strides[axis] = strides[axis + 1] * problem.axes[axis].length;
        tensor = {data, strides, 1};
    }
    Statistics(const Statistics&) = delete;
};

// The relative bias in the layout of the scores, [pattern][relative plane and row][t][lane], or its gradient.
template <typename T>
struct BiasLanes {
    static constexpr int n = kLanes<T>;
    T* memory = nullptr;
    int64_t rows = 0, max_count = 0, size = 0;

    BiasLanes() = default;  // there is no bias
    BiasLanes(Scratch<T>& scratch, const Schedule<T>& schedule)
        : memory(scratch.take(elements(schedule))),
          rows(schedule.relatives(0) * schedule.relatives(1)),
          max_count(schedule.relation(2).max_count),
          size(elements(schedule)) {}

    static int64_t elements(const Schedule<T>& schedule) {
        size_t patterns = 0;
        for (const auto& tiles : schedule.tiles) {
            for (const LanePlan<T>& tile : tiles) patterns = std::max(patterns, tile.patterns.size());
        }
        return int64_t(patterns) * schedule.relatives(0) * schedule.relatives(1) * schedule.relation(2).max_count * n;
    }
    explicit operator bool() const { return memory != nullptr; }
    T* of(const Block<T>& block) const { return memory ? memory + block.pattern * rows * max_count * n : nullptr; }
    void clear() { std::memset(memory, 0, sizeof(T) * size_t(size)); }

    // Calls f(element, its index in the table of all heads) for all elements of the current heads and tile.
    template <typename Function>
    void match(const Walk<T>& walk, Function f) const {
        const Schedule<T>& schedule = walk.schedule;
        const int64_t width = schedule.relatives(2);
        for (size_t p = 0; p < walk.tile->patterns.size(); ++p) {
            const auto& pattern = walk.tile->patterns[p];
            for (int64_t row = 0; row < rows; ++row) {
                for (int64_t t = 0; t < max_count; ++t) {
                    T* const lanes = memory + ((int64_t(p) * rows + row) * max_count + t) * n;
                    for (int l = 0; l < n; ++l) {
                        const int entry = pattern[size_t(t * n + l)];
                        if (entry < 0) continue;
                        f(lanes[l], ((walk.head + entry / width) * rows + row) * width + entry % width);
                    }
                }
            }
        }
    }
};

}  // namespace regard::neighborhood
