// How a call is cut into work, and how a thread walks through its share.
#pragma once

#include "../_native/threads.h"
#include "walk.h"

namespace regard {

struct Problem {
    int64_t batch, heads, query_dim, value_dim, threads;
    AxisOptions axes[3];
    double scale;
};

constexpr int64_t kRingBytes = 512 * 1024;  // of transposed rows a thread; they are to stay in its cache

// One or two lines of the grid that are worked on together: place y (and y + 1) at z, and all their partners' lines.
struct Line {
    int z, y, count;
    int z_begin, z_end, y_begin, y_end;
};

// How a call is cut into work: what all threads know.
template <typename T>
struct Schedule {
    static constexpr int n = kLanes<T>;
    Axis axes[3];
    bool inverse;  // lanes are keys, partners are queries
    int heads, group;
    std::vector<Line> lines;
    std::vector<LanePlan<T>> tiles[2];  // for `group` heads, and for the heads that are left
    int64_t pitch = 0;
    int span, strips;
    int64_t units, batch;

    Schedule(const Problem& problem, bool inverse)
        : axes{Axis(problem.axes[0]), Axis(problem.axes[1]), Axis(problem.axes[2])},
          inverse(inverse),
          heads(int(problem.heads)),
          batch(problem.batch) {
        span = relation(1).most + 1;
        cut_lines();
        group = heads_together();
        const int64_t channels = problem.query_dim + problem.value_dim;
        const int64_t slots = int64_t(relation(0).most) * span;
        const int64_t widest = kRingBytes / int64_t(sizeof(T)) / (channels * slots) - relation(2).most - 3 * n;
        for (int rest = 0; rest < 2; ++rest) {
            const int row = length(2) * (rest ? heads % group : group);
            const int width = int(std::max<int64_t>(widest / n * n, 4 * n));
            for (int from = 0; from < row; from += width) {
                tiles[rest].emplace_back(relation(2), length(2), from, std::min(from + width, row), kLongestChunk);
                const LanePlan<T>& tile = tiles[rest].back();
                pitch = std::max<int64_t>(pitch, tile.end - tile.begin + relation(2).most + 3 * n);
            }
        }
        pitch = (pitch + n - 1) / n * n;
        const int64_t whole = batch * (heads / group * int64_t(tiles[0].size()) + int64_t(tiles[1].size()));
        const bool balanced = whole % problem.threads == 0 || whole >= 8 * problem.threads;
        strips = balanced ? 1 : int(std::min<int64_t>(problem.threads, int64_t(lines.size())));
        units = whole * strips;
    }

    const Relation& relation(int axis) const { return inverse ? axes[axis].seen_by : axes[axis].sees; }
    int length(int axis) const { return int(axes[axis].position.size()); }
    int relative(int axis, int mine, int theirs) const {  // key minus query, from 0 on
        return (inverse ? mine - theirs : theirs - mine) + axes[axis].kernel - 1;
    }
    int scores() const { return relation(0).most * relation(1).most * relation(2).most; }  // of a lane
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

    // So many heads that their rows fill vectors well.
    int heads_together() const {
        const int row = length(2);
        int best = 1;
        double filled = 0;
        for (int count = 1; count <= heads && (count == 1 || count * row <= 16 * n); ++count) {
            const double used = double(count * row) / ((count * row + n - 1) / n * n);
            if (used > filled + 0.01) {
                best = count;
                filled = used;
            }
        }
        return best;
    }
};

// A ring of transposed lines, [z % depth][y % span][channel][lane].
template <typename T>
struct Ring {
    T* memory;
    int64_t channels, pitch;
    int depth, span;
    std::vector<int64_t> held;

    Ring(T*& memory_left, const Schedule<T>& schedule, int64_t channels)
        : memory(memory_left),
          channels(channels),
          pitch(schedule.pitch),
          depth(schedule.relation(0).most),
          span(schedule.span),
          held(size_t(depth) * span, -1) {
        memory_left += elements(schedule, channels);
    }
    static int64_t elements(const Schedule<T>& schedule, int64_t channels) {
        return schedule.relation(0).most * int64_t(schedule.span) * channels * schedule.pitch;
    }
    void forget() { std::fill(held.begin(), held.end(), -1); }
    T* at(int z, int y) { return memory + (z % depth * int64_t(span) + y % span) * channels * pitch; }
    bool missing(int z, int y) {
        int64_t& tag = held[size_t(z % depth) * span + y % span];
        const int64_t wanted = (int64_t(z) << 32) | y;
        if (tag == wanted) return false;
        tag = wanted;
        return true;
    }
};

// One thread's way through its units.
template <typename T>
struct Walk {
    static constexpr int n = kLanes<T>;
    const Schedule<T>& schedule;
    const LanePlan<T>* tile = nullptr;
    int head = 0;
    int64_t batch = 0, begin = 0, end = 0;  // lines

    explicit Walk(const Schedule<T>& schedule) : schedule(schedule) {}

    // Go to a unit; tells whether heads or tile are others than before.
    bool enter(int64_t unit) {
        const int64_t strip = unit % schedule.strips;
        batch = unit / schedule.strips % schedule.batch;
        int64_t column = unit / schedule.strips / schedule.batch;
        const int64_t whole = schedule.heads / schedule.group, per_group = int64_t(schedule.tiles[0].size());
        const bool rest = column >= whole * per_group;
        if (rest) column -= whole * per_group;
        const LanePlan<T>* entered = &schedule.tiles[rest][rest ? column : column % per_group];
        const int entered_head = rest ? int(whole * schedule.group) : int(column / per_group * schedule.group);
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

    // Offsets in a tensor's row of lanes [from, to) of this unit's heads.
    template <typename Stored>
    std::vector<int64_t> offsets(const Tensor<Stored>& tensor, int from, int to) const {
        std::vector<int64_t> result;
        for (int lane = from; lane < to; ++lane) {
            const int place = lane % schedule.length(2);
            result.push_back(tensor.lane(head + lane / schedule.length(2), schedule.axes[2].position[place]));
        }
        return result;
    }
    template <typename Stored>
    Stored* row(const Tensor<Stored>& tensor, int z, int y) const {
        return tensor.at(batch, schedule.axes[0].position[z], schedule.axes[1].position[y]);
    }

    // Calls f(line) for the lines of this unit.
    template <typename Function>
    void lines(Function f) const {
        for (int64_t i = begin; i < end; ++i) f(schedule.lines[size_t(i)]);
    }

    // Calls f(z, y, which row of scores each of the two lines has for this partner line, or -1) for all partner lines.
    template <typename Function>
    void partners(const Line& line, Function f) const {
        const Relation& rows = schedule.relation(1);
        for (int z = line.z_begin; z < line.z_end; ++z) {
            for (int y = line.y_begin; y < line.y_end; ++y) {
                int ordinal[2] = {-1, -1};
                for (int l = 0; l < line.count; ++l) {
                    const int from = rows.first[line.y + l];
                    const bool sees = from <= y && y < from + rows.count[line.y + l];
                    if (sees) ordinal[l] = (z - line.z_begin) * rows.most + y - from;
                }
                if (ordinal[0] >= 0 || ordinal[1] >= 0) f(z, y, ordinal[0], ordinal[1]);
            }
        }
    }

    // scores[line][partner] = dot products of the lines' own channels, `mine`, with a ring's.
    void dots(const Line& line, const Block<T>& block, Ring<T>& ring, T* const mine[2], T* const scores[2]) const {
        apply<false>(line, block, ring, mine, scores);
    }
    // `outs` += sums of a ring's channels, weighted with scores.
    void sums(const Line& line, const Block<T>& block, Ring<T>& ring, T* const scores[2], T* const outs[2]) const {
        apply<true>(line, block, ring, outs, scores);
    }

    // A one-channel ring's values at partner t of every lane.
    Vector<T> partner(const Block<T>& block, Ring<T>& ring, int z, int y, int t) const {
        const T* row = ring.at(z, y) + (block.base - tile->begin) + t;
        switch (block.reach) {
            case Reach::contiguous:
                return Partners<T, Reach::contiguous>(row)(0, block.first);
            case Reach::shuffled:
                return Partners<T, Reach::shuffled>(row)(0, block.first);
            default:
                return Partners<T, Reach::gathered>(row)(0, block.first);
        }
    }

    // Calls f(plane, row, offset of its scores, offset of its relative row) for all partner rows of one line.
    template <typename Function>
    void rows(const Line& line, int which, Function f) const {
        const Relation& rows = schedule.relation(1);
        const int y_mine = line.y + which, most = schedule.relation(2).most;
        for (int z = line.z_begin; z < line.z_end; ++z) {
            const int plane = schedule.relative(0, line.z, z) * schedule.relatives(1);
            for (int i = 0; i < rows.count[y_mine]; ++i) {
                const int y = rows.first[y_mine] + i;
                const int64_t ordinal = (z - line.z_begin) * rows.most + i;
                f(z, y, ordinal * most * n, int64_t(plane + schedule.relative(1, y_mine, y)) * most * n);
            }
        }
    }

   private:
    template <bool summing>
    void apply(const Line& line, const Block<T>& block, Ring<T>& ring, T* const own[2], T* const scores[2]) const {
        const int most = schedule.relation(2).most;
        partners(line, [&](int z, int y, int first, int second) {
            const int ordinals[2] = {first, second};
            const int lines = (first >= 0) + (second >= 0), from = first >= 0 ? 0 : 1;
            Operands<T> operands{};
            operands.pitch = ring.pitch;
            operands.channels = ring.channels;
            operands.first = block.first;
            for (int t = 0; t < block.most; t += block.chunk) {
                for (int l = 0; l < lines; ++l) {
                    T* score = scores[from + l] + (int64_t(ordinals[from + l]) * most + t) * n;
                    operands.in[l] = summing ? score : own[from + l];
                    operands.out[l] = summing ? own[from + l] : score;
                }
                operands.theirs = ring.at(z, y) + (block.base - tile->begin) + t;
                kernel_of<T, summing>(lines, block.reach, std::min(block.chunk, block.most - t))(operands);
            }
        });
    }
};

// A tensor whose lines are partners: transposed into a ring as the walk comes to them.
template <typename T, typename Stored>
struct Source {
    Tensor<Stored> tensor;
    Ring<T> ring;
    T factor;
    std::vector<int64_t> offsets;

    Source(Tensor<Stored> tensor, T*& memory, const Schedule<T>& schedule, T factor = 1)
        : tensor(tensor),
          ring(memory, schedule, tensor.channels),
          factor(factor) {}

    void enter(const Walk<T>& walk, bool changed) {
        if (changed) offsets = walk.offsets(tensor, walk.tile->begin, walk.tile->end);
        ring.forget();
    }
    void fetch(const Walk<T>& walk, int z, int y) {
        if (!ring.missing(z, y)) return;
        read_lanes<T>(ring.at(z, y), ring.pitch, walk.row(tensor, z, y), offsets.data(), int(offsets.size()),
                      tensor.channels, tensor.strides[5], factor);
    }
};

// A tensor of the walk's own positions: read or written a block at a time, [channel][n] for each of two lines.
template <typename T, typename Stored>
struct Own {
    static constexpr int n = kLanes<T>;
    Tensor<Stored> tensor;
    T factor;
    T* lines[2];
    std::vector<int64_t> offsets;

    Own(Tensor<Stored> tensor, T*& memory, T factor = 1)
        : tensor(tensor),
          factor(factor),
          lines{memory, memory + tensor.channels * n} {
        memory += elements(tensor);
    }
    static int64_t elements(const Tensor<Stored>& tensor) { return 2 * tensor.channels * n; }
    void enter(const Walk<T>& walk, bool changed) {
        if (changed) offsets = walk.offsets(tensor, walk.first_lane(), walk.end_lane());
    }
    void read(const Walk<T>& walk, const Line& line, const Block<T>& block) {
        for (int l = 0; l < line.count; ++l) {
            read_lanes<T>(lines[l], n, walk.row(tensor, line.z, line.y + l),
                          offsets.data() + block.lane - walk.first_lane(), block.valid, tensor.channels,
                          tensor.strides[5], factor);
        }
    }
    void clear() { std::memset(lines[0], 0, sizeof(T) * elements(tensor)); }
    void write(const Walk<T>& walk, const Line& line, const Block<T>& block, int l, Vector<T> scale) const {
        write_lanes<T>(lines[l], walk.row(tensor, line.z, line.y + l), offsets.data() + block.lane - walk.first_lane(),
                       block.valid, tensor.channels, tensor.strides[5], scale);
    }
};

// The relative bias, laid out like scores: [pattern][relative plane and row][t][lane]. Also how its gradient is
// collected.
template <typename T>
struct BiasLanes {
    static constexpr int n = kLanes<T>;
    T* memory;
    int64_t rows, most;

    BiasLanes(T* memory, const Schedule<T>& schedule)
        : memory(memory),
          rows(schedule.relatives(0) * schedule.relatives(1)),
          most(schedule.relation(2).most) {}
    static int64_t elements(const Schedule<T>& schedule) {
        size_t patterns = 0;
        for (const auto& tiles : schedule.tiles) {
            for (const LanePlan<T>& tile : tiles) patterns = std::max(patterns, tile.patterns.size());
        }
        return int64_t(patterns) * schedule.relatives(0) * schedule.relatives(1) * schedule.relation(2).most * n;
    }
    T* of(const Block<T>& block) const { return memory + block.pattern * rows * most * n; }

    // Calls f(element here, index into the table of `schedule.heads` heads) for all that belong together.
    template <typename Function>
    void match(const Walk<T>& walk, Function f) const {
        const Schedule<T>& schedule = walk.schedule;
        const int64_t width = schedule.relatives(2);
        for (size_t p = 0; p < walk.tile->patterns.size(); ++p) {
            const auto& pattern = walk.tile->patterns[p];
            for (int64_t row = 0; row < rows; ++row) {
                for (int64_t t = 0; t < most; ++t) {
                    T* here = memory + ((int64_t(p) * rows + row) * most + t) * n;
                    for (int l = 0; l < n && pattern[l].first >= 0; ++l) {
                        const int64_t column = schedule.relative(2, 0, pattern[l].second + int(t));
                        if (column < 0 || column >= width) continue;  // beyond this lane's partners
                        f(here[l], ((walk.head + pattern[l].first) * rows + row) * width + column);
                    }
                }
            }
        }
    }
};

}  // namespace regard
