// Which keys a query sees: along one axis, and along a row of vectors.
//
// Positions of an axis are taken in place order: the members of dilation group 0, then those of group 1, and so on. In
// that order the keys of a query are neighbors of one another, and so are the queries that see a key. Both relations
// give every place a first partner and a number of partners, so that forward and backward passes are the same walk.
#pragma once

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "../_native/simd.h"

namespace regard {

struct AxisOptions {
    int64_t length, kernel, dilation, stride, is_causal;
};

// The partners of every place: `count` of them from `first` on, and the most that a place has.
struct Relation {
    std::vector<int> first, count;
    int most = 0;
};

struct Axis {
    int kernel;
    std::vector<int> position;  // of every place
    Relation sees, seen_by;     // keys of a query, queries of a key

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
                add(sees, begin + first, end - first);
            }
        }
        int query = 0;  // windows only move on: the queries of a key are neighbors too
        for (int key = 0; key < length; ++key) {
            while (query < length && sees.first[query] + sees.count[query] <= key) ++query;
            int end = query;
            while (end < length && sees.first[end] <= key && key < sees.first[end] + sees.count[end]) ++end;
            add(seen_by, query, end - query);
        }
    }

   private:
    static void add(Relation& relation, int first, int count) {
        relation.first.push_back(first);
        relation.count.push_back(count);
        relation.most = std::max(relation.most, count);
    }
};

// How a block's partners come out of a row: read in one piece, shuffled out of two vectors, or one by one.
enum class Reach { contiguous, shuffled, gathered };

// One vector of lanes.
template <typename T>
struct Block {
    int lane, valid;  // the first lane, and how many are in use
    int base;         // the smallest first partner
    int most;         // partners of the lane that has the most
    int chunk;        // partners that one pair of vectors reaches
    int pattern;      // of heads and offsets, shared by like blocks
    bool ragged;      // whether some lane has fewer partners than `most`
    Reach reach;
    Index<T> first, count;  // of every lane's partners, the first relative to base
};

// A row of the grid as vectors: lane = head * length + place, for some heads side by side.
//
// Several heads together fill vectors that one head's row would leave half empty.
template <typename T>
struct LanePlan {
    static constexpr int n = kLanes<T>;
    using Pattern = std::vector<std::pair<int, int>>;  // per lane: head, and first partner minus lane

    std::vector<Block<T>> blocks;
    std::vector<Pattern> patterns;
    int begin, end;  // the partners' lanes

    // Plans lanes [from, to) of a row of `length` places a head.
    LanePlan(const Relation& relation, int length, int from, int to, int longest_chunk) {
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
                block.most = std::max(block.most, relation.count[place]);
                block.base = std::min(block.base, first[l]);
                farthest = std::max(farthest, first[l]);
                if (l < block.valid) pattern[l] = {used / length, first[l] - used};
                end = std::max(end, first[l] + relation.count[place]);
            }
            bool contiguous = true;
            for (int l = 0; l < n; ++l) {
                block.first[l] = first[l] - block.base;
                contiguous &= l >= block.valid || block.first[l] == l;
                block.ragged |= block.count[l] < block.most;
            }
            begin = std::min(begin, block.base);
            const int room = 2 * n - (farthest - block.base);
            block.reach = contiguous ? Reach::contiguous : room > 0 ? Reach::shuffled : Reach::gathered;
            block.chunk = block.reach == Reach::shuffled ? std::min(longest_chunk, room) : longest_chunk;
            const auto [entry, is_new] = known.emplace(pattern, int(patterns.size()));
            if (is_new) patterns.push_back(pattern);
            block.pattern = entry->second;
            blocks.push_back(block);
        }
    }
};

}  // namespace regard
