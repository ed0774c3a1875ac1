// Products of small matrices: the queries, keys and values of one window and head, or of one block of queries.
#pragma once

#include <algorithm>

#include "simd.h"

namespace regard {

// The left factor of a product: element (m, k) is data[m * row + k * column], so a transpose is a change of strides.
template <typename T>
struct LeftFactor {
    const T* data;
    int64_t row, column;

    LeftFactor at(int64_t m, int64_t k) const { return {data + m * row + k * column, row, column}; }
};

// Sums that fit into the registers beside a row of the right factor.
constexpr int kAccumulators = kVectorBytes == 64 ? 24 : 12;
constexpr int kMaxVectors = kVectorBytes == 64 ? 4 : 2;
constexpr int kMaxRows = 12;
constexpr int64_t kDepthPerSum = 128;  // nested short sums round less than one long sum

// Computes `rows` rows and `vectors` vectors of the product: out[m][n] = sum over k of left(m, k) * right[k][n], added
// to `out` if `add`.
template <typename T, int rows, int vectors>
void product_tile(const LeftFactor<T>& left, const T* right, int64_t right_pitch, T* out, int64_t pitch, int64_t depth,
                  bool add) {
    constexpr int n = kLanes<T>;
    Vector<T> sums[rows][vectors];
#pragma GCC unroll 12
    for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sums[m][v] = Vector<T>{};
    }
    for (int64_t k = 0; k < depth; ++k) {
        Vector<T> row[vectors];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) row[v] = load(right + k * right_pitch + v * n);
#pragma GCC unroll 12
        for (int m = 0; m < rows; ++m) {
            const T factor = left.data[m * left.row + k * left.column];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v) sums[m][v] += row[v] * factor;
        }
    }
#pragma GCC unroll 12
    for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
            T* const to = out + m * pitch + v * n;
            store(to, add ? load(to) + sums[m][v] : sums[m][v]);
        }
    }
}

template <typename T>
using Tile = void (*)(const LeftFactor<T>&, const T*, int64_t, T*, int64_t, int64_t, bool);

template <typename T, int vectors, typename Sizes>
struct Tiles;
template <typename T, int vectors, int... rows>
struct Tiles<T, vectors, std::integer_sequence<int, rows...>> {
    static constexpr Tile<T> of_rows[] = {nullptr, product_tile<T, rows + 1, vectors>...};
};

// Rows cut into tiles of nearly equal height, which run at nearly equal speed.
struct RowTiles {
    int64_t count, rows, higher;  // so many have one row more

    RowTiles(int64_t m, int64_t max_rows)
        : count((m + max_rows - 1) / max_rows),
          rows(m / std::max<int64_t>(count, 1)),
          higher(m - count * rows) {}
};

template <typename T, int vectors>
void product_columns(const LeftFactor<T>& left, const T* right, int64_t right_pitch, T* out, int64_t pitch, int64_t m,
                     int64_t n, int64_t depth, bool add) {
    constexpr int max_rows = std::min(kAccumulators / vectors, kMaxRows);
    using Sizes = std::make_integer_sequence<int, max_rows>;
    const RowTiles tiles(m, max_rows);
    for (int64_t column = 0; column < n; column += vectors * kLanes<T>) {
        int64_t begin = 0;
        for (int64_t tile = 0; tile < tiles.count; ++tile) {
            const int64_t rows = tiles.rows + (tile < tiles.higher);
            Tiles<T, vectors, Sizes>::of_rows[rows](left.at(begin, 0), right + column, right_pitch,
                                                    out + begin * pitch + column, pitch, depth, add);
            begin += rows;
        }
    }
}

// Computes out[m][n] = sum over k of left(m, k) * right[k][n] for m rows and n columns, a whole number of vectors. The
// result is added to `out` if `add`.
template <typename T>
void product(const LeftFactor<T>& left, const T* right, int64_t right_pitch, T* out, int64_t pitch, int64_t m,
             int64_t n, int64_t depth, bool add = false) {
    constexpr int lanes = kLanes<T>;
    const int64_t rest = n / lanes % kMaxVectors, whole = n - rest * lanes;
    for (int64_t k = 0; k < depth; k += kDepthPerSum) {
        const int64_t chunk = std::min(kDepthPerSum, depth - k);
        const auto columns = [&](auto compute, int64_t first, int64_t count) {
            compute(left.at(0, k), right + k * right_pitch + first, right_pitch, out + first, pitch, m, count, chunk,
                    add || k > 0);
        };
        columns(product_columns<T, kMaxVectors>, 0, whole);
        if (rest == 1) columns(product_columns<T, 1>, whole, lanes);
        if (rest == 2) columns(product_columns<T, 2>, whole, 2 * lanes);
        if (rest == 3) columns(product_columns<T, 3>, whole, 3 * lanes);
    }
}

}  // namespace regard
