// Which keys a query sees, along one axis and along a row of vectors.
//
// The positions of an axis are sorted by dilation group: first the members of group 0, then those of group 1, and so
// on. In this order, which we call place order, the keys of a query are contiguous, and so are the queries of a key.
// Either relation gives every place a first neighbor and a number of neighbors, so forward and backward passes are the
// same walk.
#pragma once

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "../_native/simd.h"

namespace regard::neighborhood {

struct AxisOptions {
    int64_t length, kernel, dilation, stride, is_causal;
};

// The neighbors of every place: `count` places, starting with `first`.
struct Relation {
    std::vector<int> first, count;
    int max_count = 0;
};

struct Axis {
    int kernel;
    std::vector<int> position;  // of every place
    Relation keys, queries;     // the keys of every query, and the queries of every key

    explicit Axis(const AxisOptions& options) : kernel(int(options.kernel)) {
        const int length = int(options.length), dilation = int(options.dilation), stride = int(options.stride);
        for (int group = 0; group < std::min(dilation, length); ++group) {
            const int begin = int(position.size()), members = (length - group + dilation - 1) / dilation;
            for (int member = 0; member < members; ++member) {
                const int run = member / stride * stride;
                const int leader = std::min(run + (options.is_causal ? stride - 1 : stride / 2), members - 1);
                const int first = options.is_causal ? std::max(leader - kernel + 1, 0)
                                                    : std::min(std::max(leader - kernel / 2, 0), members - kernel);
                const int end = options.is_causal ? member + 1 : first + kernel;
                position.push_back(group + member * dilation);
                add(keys, begin + first, end - first);
            }
        }
        int query = 0;  // windows never move back, so the queries of a key are contiguous too
        for (int key = 0; key < length; ++key) {
            while (query < length && keys.first[query] + keys.count[query] <= key) ++query;
            int end = query;
            while (end < length && keys.first[end] <= key && key < keys.first[end] + keys.count[end]) ++end;
            add(queries, query, end - query);
        }
    }

   private:
    static void add(Relation& relation, int first, int count) {
        relation.first.push_back(first);
        relation.count.push_back(count);
        relation.max_count = std::max(relation.max_count, count);
    }
};

// How the neighbors of a vector of lanes are loaded from a row: as one vector, shuffled out of two vectors, or one by
// one.
enum class Access { contiguous, shuffled, gathered };

// One vector of lanes.
template <typename T>
struct Block {
    int lane, valid;  // the first lane, and the number of lanes in use
    int base;         // the smallest first neighbor
    int max_count;    // neighbors of the lane that has the most
    int chunk;        // neighbors that one pair of vectors contains
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
    using Pattern = std::vector<std::pair<int, int>>;  // per lane: head, and first neighbor minus lane

    std::vector<Block<T>> blocks;
    std::vector<Pattern> patterns;
    int begin, end;  // of the neighbors' lanes

    // Plans lanes [from, to) of a row of `length` places per head.
    LanePlan(const Relation& relation, int length, int from, int to, int max_chunk) {
        std::map<Pattern, int> known;
        begin = std::numeric_limits<int>::max();
        end = 0;
        for (int lane = from; lane < to; lane += n) {
            Block<T> block{};
            Pattern pattern(n, {-1, 0});
            int first[n], farthest = 0;
            block.lane = lane;
            block.valid = std::min(n, to - lane);
            block.base = std::numeric_limits<int>::max();
            for (int l = 0; l < n; ++l) {
                const int used = lane + std::min(l, block.valid - 1), place = used % length;
                first[l] = used - place + relation.first[place];
                block.count[l] = relation.count[place];
                block.max_count = std::max(block.max_count, relation.count[place]);
                block.base = std::min(block.base, first[l]);
                farthest = std::max(farthest, first[l]);
                if (l < block.valid) pattern[l] = {used / length, first[l] - used};
                end = std::max(end, first[l] + relation.count[place]);
            }
            bool is_contiguous = true;
            for (int l = 0; l < n; ++l) {
                block.first[l] = first[l] - block.base;
                is_contiguous &= l >= block.valid || block.first[l] == l;
                block.is_ragged |= block.count[l] < block.max_count;
            }
            begin = std::min(begin, block.base);
            const int room = 2 * n - (farthest - block.base);
            block.access = is_contiguous ? Access::contiguous : room > 0 ? Access::shuffled : Access::gathered;
            block.chunk = block.access == Access::shuffled ? std::min(max_chunk, room) : max_chunk;
            const auto [entry, is_new] = known.emplace(pattern, int(patterns.size()));
            if (is_new) patterns.push_back(pattern);
            block.pattern = entry->second;
            blocks.push_back(block);
        }
    }
};

}  // namespace regard::neighborhood
