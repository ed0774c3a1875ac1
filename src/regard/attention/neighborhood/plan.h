// Which keys a query sees, along one axis and along a row of vectors.
//
// The positions of an axis are sorted by dilation group: first the members of group 0, then those of group 1, and so
// on. In this order, which we call place order, the keys of a query are contiguous, and so are the queries of a key.
// Either relation gives every place a first neighbor and a number of neighbors, so forward and backward passes are the
// same walk.
//
// Along a row, adjacent lanes should see adjacent neighbors, so that a vector of neighbors is one load. At a border
// they do not: there the window stands still. But with K keys per query, the window of a query at the border is, apart
// from the order of its keys, the centered window in a row that continues beyond its ends with period K:
//
//   keys        4 5 6 | 0 1 2 3 4 5 6 7 8 ...    (K = 7)
//   query 0     -----------------                 sees 4 5 6 0 1 2 3
//   query 1       -----------------               sees 5 6 0 1 2 3 4
//
// So the neighbors of a row are stored with K - 1 copies, and lane + t is neighbor t of every lane.
#pragma once

#include <algorithm>
#include <map>
#include <vector>

#include "../../native/simd.h"

namespace regard::neighborhood {

struct AxisOptions {
    int64_t length, kernel, dilation, stride, is_causal;
};

// The neighbors of every place: `count` members of `places`, starting with member `first`. These are all places in
// order, or, in a row that continues periodically, the places with their copies.
struct Relation {
    std::vector<int> first, count, places;
    int max_count = 0;

    void add(int first_neighbor, int neighbors) {
        first.push_back(first_neighbor);
        count.push_back(neighbors);
        max_count = std::max(max_count, neighbors);
    }
};

struct Axis {
    int kernel;
    std::vector<int> position;  // of every place
    Relation keys, queries;     // the keys of every query, and the queries of every key

    Axis(const AxisOptions& options, bool is_row) : kernel(int(options.kernel)) {
        const int length = int(options.length), dilation = int(options.dilation), stride = int(options.stride);
        const bool is_periodic = is_row && stride == 1 && !options.is_causal;
        Relation periodic;
        for (int group = 0; group < std::min(dilation, length); ++group) {
            const int begin = int(position.size()), members = (length - group + dilation - 1) / dilation;
            for (int member = 0; member < members; ++member) {
                const int run = member / stride * stride;
                const int leader = std::min(run + (options.is_causal ? stride - 1 : stride / 2), members - 1);
                const int first = options.is_causal ? std::max(leader - kernel + 1, 0)
                                                    : std::min(std::max(leader - kernel / 2, 0), members - kernel);
                const int end = options.is_causal ? member + 1 : first + kernel;
                position.push_back(group + member * dilation);
                keys.places.push_back(begin + member);
                keys.add(begin + first, end - first);
                if (is_periodic) periodic.add(int(periodic.places.size()) + member, kernel);
            }
            for (int lane = -kernel / 2; is_periodic && lane < members - kernel / 2 + kernel - 1; ++lane) {
                const int period = lane < 0 ? kernel : lane >= members ? -kernel : 0;
                periodic.places.push_back(begin + lane + period);
            }
        }
        queries.places = keys.places;
        int query = 0;  // windows never move back, so the queries of a key are contiguous too
        for (int key = 0; key < length; ++key) {
            while (query < length && keys.first[query] + keys.count[query] <= key) ++query;
            int end = query;
            while (end < length && keys.first[end] <= key && key < keys.first[end] + keys.count[end]) ++end;
            queries.add(query, end - query);
        }
        if (is_periodic) keys = periodic;
    }
};

// How the neighbors of a vector of lanes are loaded from a row: as one vector, blended from two vectors, shuffled out
// of two adjacent vectors, or one by one.
enum class Access { contiguous, blended, shuffled, gathered };
constexpr bool kShuffleIsOneInstruction = kVectorBytes == 64;

// One vector of lanes.
template <typename T>
struct Block {
    int lane, valid;  // the first lane, and the number of lanes in use
    int base;         // the smallest first neighbor
    int gap;          // blended: where the second vector begins
    int max_count;    // neighbors of the lane that has the most
    int chunks[2];    // neighbors per call of the dots and of the sums
    int pattern;      // of heads and offsets, shared by equal blocks
    bool is_ragged;   // whether a lane has fewer neighbors than `max_count`
    Access access;
    Index<T> first, count;  // of every lane's neighbors; `first` is relative to `base`
};

// A row of the grid as vectors: lane = head * length + place, for several heads side by side, since the row of one head
// could leave vectors half empty.
template <typename T>
struct LanePlan {
    static constexpr int n = kLanes<T>;
    // Where the bias of neighbor t of a lane is, [t][lane]: head * width of the table + column, -1 where it is not.
    using Pattern = std::vector<int>;

    std::vector<Block<T>> blocks;
    std::vector<Pattern> patterns;
    int begin, end;  // of the neighbors' lanes

    // Plans lanes [from, to) of a row of `length` places per head. `column(place, neighbor)` is the bias's column.
    template <typename Column>
    LanePlan(const Relation& relation, int length, int from, int to, const int (&max_chunks)[2], int width,
             Column column) {
        std::map<Pattern, int> known;
        begin = std::numeric_limits<int>::max();
        end = 0;
        for (int lane = from; lane < to; lane += n) {
            Block<T> block{};
            Pattern pattern(size_t(relation.max_count) * n, -1);
            int first[n];
            block.lane = lane;
            block.valid = std::min(n, to - lane);
            block.base = std::numeric_limits<int>::max();
            for (int l = 0; l < n; ++l) {
                const int used = lane + std::min(l, block.valid - 1), place = used % length, head = used / length;
                first[l] = head * int(relation.places.size()) + relation.first[place];
                block.count[l] = relation.count[place];
                block.max_count = std::max(block.max_count, relation.count[place]);
                block.base = std::min(block.base, first[l]);
                for (int t = 0; l < block.valid && t < relation.count[place]; ++t) {
                    const int neighbor = relation.places[size_t(relation.first[place] + t)];
                    pattern[size_t(t * n + l)] = head * width + column(place, neighbor);
                }
                end = std::max(end, first[l] + relation.count[place]);
            }
            for (int l = 0; l < n; ++l) {
                block.first[l] = first[l] - block.base;
                block.is_ragged |= block.count[l] < block.max_count;
            }
            begin = std::min(begin, block.base);
            choose_access(block, max_chunks);
            const auto [entry, is_new] = known.emplace(pattern, int(patterns.size()));
            if (is_new) patterns.push_back(pattern);
            block.pattern = entry->second;
            blocks.push_back(block);
        }
    }

   private:
    static void choose_access(Block<T>& block, const int (&max_chunks)[2]) {
        int runs = 1, farthest = 0;  // runs of lanes whose neighbors are adjacent
        for (int l = 0; l < n; ++l) farthest = std::max(farthest, int(block.first[l]));
        for (int l = 1; l < block.valid; ++l) runs += block.first[l] != block.first[l - 1] + 1;
        const int room = 2 * n - farthest;
        block.gap = int(block.first[block.valid - 1]) - (block.valid - 1);
        const bool has_room_before = block.gap >= 0;  // a second vector must not begin before the row
        const bool is_blended =
            runs == 2 && block.first[0] == 0 && has_room_before && !(kShuffleIsOneInstruction && room > 0);
        block.access = runs == 1    ? Access::contiguous
                       : is_blended ? Access::blended
                       : room > 0   ? Access::shuffled
                                    : Access::gathered;
        for (int is_sum = 0; is_sum < 2; ++is_sum) {
            // A pair of vectors that is shuffled contains `room` neighbors.
            const int most = block.access == Access::shuffled ? std::min(max_chunks[is_sum], room) : max_chunks[is_sum];
            const int chunks = (block.max_count + most - 1) / most;
            block.chunks[is_sum] = (block.max_count + chunks - 1) / chunks;  // of nearly equal length
        }
    }
};

}  // namespace regard::neighborhood
