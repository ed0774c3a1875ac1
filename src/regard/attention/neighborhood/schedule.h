// How a call is divided into units of work, and how a thread walks through its units.
#pragma once

#include "../../native/memory.h"
#include "../../native/threads.h"
#include "walk.h"

namespace regard::neighborhood {

struct Problem {
    int64_t batch, heads, query_dim, value_dim, threads;
    AxisOptions axes[3];
    double scale;
};

constexpr int64_t kRingBytes = 512 * 1024;  // of transposed rows per thread, which stay in its cache

// One or two lines of the grid that are processed together: places y and y + 1 at z, and the lines of their neighbors.
struct Line {
    int z, y, count;
    int z_begin, z_end, y_begin, y_end;
};

// The division of a call into units, shared by all threads.
template <typename T>
struct Schedule {
    static constexpr int n = kLanes<T>;
    Axis axes[3];
    bool is_inverse;  // lanes are keys and neighbors are queries, not the reverse
    int heads, group;
    std::vector<Line> lines;
    std::vector<LanePlan<T>> tiles[2];  // for `group` heads, and for the remaining heads
    int64_t pitch = 0;
    int span, strips;
    int64_t units, batch;

    Schedule(const Problem& problem, bool is_inverse)
        : axes{{problem.axes[0], false}, {problem.axes[1], false}, {problem.axes[2], true}},
          is_inverse(is_inverse),
          heads(int(problem.heads)),
          batch(problem.batch) {
        span = relation(1).max_count + 1;
        cut_lines();
        group = heads_per_group();
        const int64_t channels = problem.query_dim + problem.value_dim;
        const int64_t slots = int64_t(relation(0).max_count) * span;
        const auto column = [&](int own, int neighbor) { return relative(2, own, neighbor); };
        const int64_t max_width = kRingBytes / int64_t(sizeof(T)) / (channels * slots) - relation(2).max_count - 3 * n;
        for (int rest = 0; rest < 2; ++rest) {
            const int row = length(2) * (rest ? heads % group : group);
            const int width = int(std::max<int64_t>(max_width / n * n, 4 * n));
            for (int from = 0; from < row; from += width) {
                tiles[rest].emplace_back(relation(2), length(2), from, std::min(from + width, row), kMaxChunks,
                                         relatives(2), column);
                const LanePlan<T>& tile = tiles[rest].back();
                pitch = std::max<int64_t>(pitch, tile.end - tile.begin + relation(2).max_count + 3 * n);
            }
        }
        pitch = (pitch + n - 1) / n * n;
        const int64_t whole = batch * (heads / group * int64_t(tiles[0].size()) + int64_t(tiles[1].size()));
        const bool is_balanced = whole % problem.threads == 0 || whole >= 8 * problem.threads;
        strips = is_balanced ? 1 : int(std::min<int64_t>(problem.threads, int64_t(lines.size())));
        units = whole * strips;
    }

    const Relation& relation(int axis) const { return is_inverse ? axes[axis].queries : axes[axis].keys; }
    int length(int axis) const { return int(axes[axis].position.size()); }
    int relative(int axis, int own, int neighbor) const {  // key minus query, starting with 0
        return (is_inverse ? own - neighbor : neighbor - own) + axes[axis].kernel - 1;
    }
    int scores() const { return relation(0).max_count * relation(1).max_count * relation(2).max_count; }  // per lane
    int relatives(int axis) const { return 2 * axes[axis].kernel - 1; }

   private:
    void cut_lines() {
        const Relation &planes = relation(0), &rows = relation(1);
        for (int z = 0; z < length(0); ++z) {
            for (int y = 0; y < length(1);) {
                Line line{z,
                          y,
                          1,
                          planes.first[z],
                          planes.first[z] + planes.count[z],
                          rows.first[y],
                          rows.first[y] + rows.count[y]};
                if (y + 1 < length(1)) {
                    const int begin = std::min(line.y_begin, rows.first[y + 1]);
                    const int end = std::max(line.y_end, rows.first[y + 1] + rows.count[y + 1]);
                    if (end - begin <= span) {
                        line.count = 2;
                        line.y_begin = begin;
                        line.y_end = end;
                    }
                }
                lines.push_back(line);
                y += line.count;
            }
        }
    }

    // The number of heads side by side that fills vectors best.
    int heads_per_group() const {
        const int row = length(2);
        int best_count = 1;
        double best_share = 0;
        for (int count = 1; count <= heads && (count == 1 || count * row <= 16 * n); ++count) {
            const double share = double(count * row) / ((count * row + n - 1) / n * n);
            if (share > best_share + 0.01) {
                best_count = count;
                best_share = share;
            }
        }
        return best_count;
    }
};

// A ring buffer of transposed lines, [z % depth][y % span][channel][lane].
template <typename T>
struct Ring {
    T* memory;
    int64_t channels, pitch;
    int depth, span;
    std::vector<int64_t> held;

    Ring(Scratch<T>& scratch, const Schedule<T>& schedule, int64_t channels)
        : memory(scratch.take(elements(schedule, channels))),
          channels(channels),
          pitch(schedule.pitch),
          depth(schedule.relation(0).max_count),
          span(schedule.span),
          held(size_t(depth) * span, -1) {}
    static int64_t elements(const Schedule<T>& schedule, int64_t channels) {
        return schedule.relation(0).max_count * int64_t(schedule.span) * channels * schedule.pitch;
    }
    void clear() { std::fill(held.begin(), held.end(), -1); }
    T* at(int z, int y) { return memory + (z % depth * int64_t(span) + y % span) * channels * pitch; }
    // Whether a line must be read; after the call, it counts as held.
    bool claim(int z, int y) {
        int64_t& tag = held[size_t(z % depth) * span + y % span];
        const int64_t wanted = (int64_t(z) << 32) | y;
        if (tag == wanted) return false;
        tag = wanted;
        return true;
    }
};

// The walk of one thread through its units.
template <typename T>
struct Walk {
    static constexpr int n = kLanes<T>;
    const Schedule<T>& schedule;
    const LanePlan<T>* tile = nullptr;
    int head = 0;
    int64_t batch = 0, begin = 0, end = 0;  // lines

    explicit Walk(const Schedule<T>& schedule) : schedule(schedule) {}

    // Goes to a unit. Returns whether its heads or its tile differ from those of the unit before.
    bool enter(int64_t unit) {
        const int64_t strip = unit % schedule.strips;
        batch = unit / schedule.strips % schedule.batch;
        int64_t column = unit / schedule.strips / schedule.batch;
        const int64_t whole = schedule.heads / schedule.group, per_group = int64_t(schedule.tiles[0].size());
        const bool is_rest = column >= whole * per_group;
        if (is_rest) column -= whole * per_group;
        const LanePlan<T>* entered = &schedule.tiles[is_rest][is_rest ? column : column % per_group];
        const int entered_head = is_rest ? int(whole * schedule.group) : int(column / per_group * schedule.group);
        const bool changed = entered != tile || entered_head != head;
        tile = entered;
        head = entered_head;
        const int64_t lines = int64_t(schedule.lines.size());
        begin = strip * lines / schedule.strips;
        end = (strip + 1) * lines / schedule.strips;
        return changed;
    }

    int first_lane() const { return tile->blocks.front().lane; }
    int end_lane() const { return tile->blocks.back().lane + tile->blocks.back().valid; }

    // Return the offsets of this tile's lanes, or of its neighbors' lanes, in a row of a tensor.
    template <typename Stored>
    std::vector<int64_t> lane_offsets(const Tensor<Stored>& tensor) const {
        std::vector<int64_t> result;
        for (int lane = first_lane(); lane < end_lane(); ++lane) {
            const int place = lane % schedule.length(2);
            result.push_back(tensor.offset(head + lane / schedule.length(2), schedule.axes[2].position[place]));
        }
        return result;
    }
    template <typename Stored>
    std::vector<int64_t> neighbor_offsets(const Tensor<Stored>& tensor) const {
        const std::vector<int>& places = schedule.relation(2).places;
        std::vector<int64_t> result;
        for (int lane = tile->begin; lane < tile->end; ++lane) {
            const int place = places[size_t(lane) % places.size()], own_head = head + lane / int(places.size());
            result.push_back(tensor.offset(own_head, schedule.axes[2].position[place]));
        }
        return result;
    }
    template <typename Stored>
    Stored* row(const Tensor<Stored>& tensor, int z, int y) const {
        return tensor.at(batch, schedule.axes[0].position[z], schedule.axes[1].position[y]);
    }

    // Calls f(line) for all lines of this unit.
    template <typename Function>
    void lines(Function f) const {
        for (int64_t i = begin; i < end; ++i) f(schedule.lines[size_t(i)]);
    }

    // Calls f(z, y, ordinals...) for all lines of neighbors. The ordinals say which row of each line's scores belongs
    // to (z, y), -1 for none.
    template <typename Function>
    void neighbors(const Line& line, Function f) const {
        const Relation& rows = schedule.relation(1);
        for (int z = line.z_begin; z < line.z_end; ++z) {
            for (int y = line.y_begin; y < line.y_end; ++y) {
                int ordinal[2] = {-1, -1};
                for (int l = 0; l < line.count; ++l) {
                    const int from = rows.first[line.y + l];
                    const bool is_neighbor = from <= y && y < from + rows.count[line.y + l];
                    if (is_neighbor) ordinal[l] = (z - line.z_begin) * rows.max_count + y - from;
                }
                if (ordinal[0] >= 0 || ordinal[1] >= 0) f(z, y, ordinal[0], ordinal[1]);
            }
        }
    }

    // Computes scores[line][neighbor], the dot products of the lines' own channels with those of a ring.
    void dots(const Line& line, const Block<T>& block, Ring<T>& ring, T* const own[2], T* const scores[2]) const {
        apply<false>(line, block, ring, own, scores);
    }
    // Adds the sums of a ring's channels, weighted with the scores, to `outs`.
    void sums(const Line& line, const Block<T>& block, Ring<T>& ring, T* const scores[2], T* const outs[2]) const {
        apply<true>(line, block, ring, outs, scores);
    }

    // Returns the values of a ring of one channel at neighbor t of every lane.
    Vector<T> neighbor(const Block<T>& block, Ring<T>& ring, int z, int y, int t) const {
        const T* row = ring.at(z, y) + (block.base - tile->begin) + t;
        switch (block.access) {
            case Access::contiguous:
                return Neighbors<T, Access::contiguous>(row, block.gap)(0, block.first);
            case Access::blended:
                return Neighbors<T, Access::blended>(row, block.gap)(0, block.first);
            case Access::shuffled:
                return Neighbors<T, Access::shuffled>(row, block.gap)(0, block.first);
            default:
                return Neighbors<T, Access::gathered>(row, block.gap)(0, block.first);
        }
    }

    // Calls f(z, y, offset of its scores, offset of its relative row) for all lines of neighbors of one line.
    template <typename Function>
    void rows(const Line& line, int l, Function f) const {
        const Relation& rows = schedule.relation(1);
        const int own_y = line.y + l, max_count = schedule.relation(2).max_count;
        for (int z = line.z_begin; z < line.z_end; ++z) {
            const int plane = schedule.relative(0, line.z, z) * schedule.relatives(1);
            for (int i = 0; i < rows.count[own_y]; ++i) {
                const int y = rows.first[own_y] + i;
                const int64_t ordinal = (z - line.z_begin) * rows.max_count + i;
                f(z, y, ordinal * max_count * n, int64_t(plane + schedule.relative(1, own_y, y)) * max_count * n);
            }
        }
    }

   private:
    template <bool is_sum>
    void apply(const Line& line, const Block<T>& block, Ring<T>& ring, T* const own[2], T* const scores[2]) const {
        const int max_count = schedule.relation(2).max_count;
        neighbors(line, [&](int z, int y, int first, int second) {
            const int ordinals[2] = {first, second};
            const int lines = (first >= 0) + (second >= 0), from = first >= 0 ? 0 : 1;
            SumOperands<T> operands{};
            operands.pitch = ring.pitch;
            operands.channels = ring.channels;
            operands.first = block.first;
            operands.gap = block.gap;
            const int chunk = block.chunks[is_sum];
            for (int t = 0; t < block.max_count; t += chunk) {
                for (int l = 0; l < lines; ++l) {
                    T* score = scores[from + l] + (int64_t(ordinals[from + l]) * max_count + t) * n;
                    operands.in[l] = is_sum ? score : own[from + l];
                    operands.out[l] = is_sum ? own[from + l] : score;
                }
                operands.ring = ring.at(z, y) + (block.base - tile->begin) + t;
                operands.count = std::min(chunk, block.max_count - t);
                kernel_of<T, is_sum>(lines, block.access, operands.count)(operands);
            }
        });
    }
};

}  // namespace regard::neighborhood
