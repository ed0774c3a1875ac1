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
void product_tile(LeftFactor<T> left, const T* right, int64_t right_pitch, T* out, int64_t pitch, int64_t depth,
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
using Tile = void (*)(LeftFactor<T>, const T*, int64_t, T*, int64_t, int64_t, bool);

template <typename T, int vectors, int... rows>
constexpr Tile<T> tile_of(int count, std::integer_sequence<int, rows...>) {
    constexpr Tile<T> tiles[] = {product_tile<T, rows + 1, vectors>...};
    return tiles[count - 1];
}

template <typename T, int vectors>
void product_columns(LeftFactor<T> left, const T* right, int64_t right_pitch, T* out, int64_t pitch, int64_t m,
                     int64_t depth, bool add) {
    constexpr int max_rows = std::min(kAccumulators / vectors, kMaxRows);
    for (int64_t begin = 0; begin < m;) {
        const int64_t tiles = (m - begin + max_rows - 1) / max_rows;
        const int64_t rows = (m - begin + tiles - 1) / tiles;  // tiles of nearly equal height run at nearly equal speed
        tile_of<T, vectors>(int(rows), std::make_integer_sequence<int, max_rows>())(
            left.at(begin, 0), right, right_pitch, out + begin * pitch, pitch, depth, add);
        begin += rows;
    }
}

// Computes out[m][n] = sum over k of left(m, k) * right[k][n] for m rows and n columns, a whole number of vectors. The
// result is added to `out` if `add`.
template <typename T>
void product(LeftFactor<T> left, const T* right, int64_t right_pitch, T* out, int64_t pitch, int64_t m, int64_t n,
             int64_t depth, bool add = false) {
    constexpr int lanes = kLanes<T>;
    for (int64_t k = 0; k < depth; k += kDepthPerSum) {
        const int64_t chunk = std::min(kDepthPerSum, depth - k);
        for (int64_t column = 0; column < n;) {
            const int64_t vectors = std::min<int64_t>((n - column) / lanes, kMaxVectors);
            const T* const block = right + k * right_pitch + column;
            T* const to = out + column;
            if (vectors == 1)
                product_columns<T, 1>(left.at(0, k), block, right_pitch, to, pitch, m, chunk, add || k > 0);
            if (vectors == 2)
                product_columns<T, 2>(left.at(0, k), block, right_pitch, to, pitch, m, chunk, add || k > 0);
            if (vectors == 3)
                product_columns<T, 3>(left.at(0, k), block, right_pitch, to, pitch, m, chunk, add || k > 0);
            if (vectors == 4)
                product_columns<T, 4>(left.at(0, k), block, right_pitch, to, pitch, m, chunk, add || k > 0);
            column += vectors * lanes;
        }
    }
}

}  // namespace regard
