// Shapes of tensors with heads or with tokens, checked and described for the kernels.
#pragma once

#include <algorithm>

#include "kernels.h"

namespace regard::onnxruntime {

constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kMaxLength = 1 << 30;  // of axes and rows, which some kernels count in 32 bits

inline void require_lengths(const Sizes& sizes) {
    for (const int64_t size : sizes) require(size >= 1 && size <= kMaxLength, "sizes must be 1 to 2 ** 30");
}

// Describes a tensor of `[B, *grid, heads, channels]`, whose positions are `pitch` elements apart.
inline Operand operand(float* data, int64_t batch_stride, const Sizes& grid, int64_t pitch, int64_t head_stride) {
    Operand result{data, {batch_stride, 0, 0, 0, head_stride, 1}};
    int64_t stride = pitch;
    for (size_t axis = grid.size(), place = 3; axis-- > 0; --place) {
        result.strides[place] = stride;
        stride *= grid[axis];
    }
    return result;
}

// Query, key and value: three tensors `[B, *grid, nh, hd]`, or one, `[B, *grid, 3, nh, hd]`, if the node is packed.
struct Heads {
    int64_t batch, heads, query_dim, value_dim;
    Sizes grid;
    bool is_empty = true;             // whether the output has no elements
    Operand query{}, key{}, value{};  // not described if the output is empty

    Heads(const Call& call, bool is_packed) {
        const Array first = call.input(0), second = call.input(1), third = call.input(2);
        const int64_t extra = is_packed ? 1 : 0;
        require(first.rank() >= 4 + extra && first.rank() <= 6 + extra,
                is_packed ? "a packed input must be [B, *grid, 3, heads, channels]"
                          : "query must be [B, *grid, heads, channels]");
        batch = first.at(0), heads = first.at(-2), query_dim = value_dim = first.at(-1);
        grid.assign(first.shape.begin() + 1, first.shape.end() - 2 - extra);
        if (is_packed) {
            require(first.at(-3) == 3, "a packed input must be [B, *grid, 3, heads, channels]");
            require(!second.is_given && !third.is_given, "a packed node has no inputs key and value");
        } else {
            require(second.is_given && second.shape == first.shape, "key must have query's shape");
            require(third.rank() == first.rank() &&
                        std::equal(first.shape.begin(), first.shape.end() - 1, third.shape.begin()),
                    "value must have query's shape but for its channels");
            value_dim = third.at(-1);
        }
        is_empty = product(output_shape()) == 0;
        if (is_empty) return;
        require(query_dim >= 1 && query_dim <= kMaxHeadDim && value_dim <= kMaxHeadDim,
                "heads must have 1 to 256 channels");
        require(count() <= kMaxLength / heads, "there are more than 2 ** 30 heads of positions");
        const int64_t width = heads * query_dim, pitch = is_packed ? 3 * width : width;
        const auto described = [&](float* data, int64_t dim, int64_t one_pitch) {
            return operand(data, count() * one_pitch, grid, one_pitch, dim);
        };
        query = described(first.data, query_dim, pitch);
        key = described(is_packed ? first.data + width : second.data, query_dim, pitch);
        value = is_packed ? described(first.data + 2 * width, query_dim, pitch)
                          : described(third.data, value_dim, heads * value_dim);
    }
    int64_t count() const { return product(grid); }
    Sizes output_shape() const {
        Sizes shape{batch};
        shape.insert(shape.end(), grid.begin(), grid.end());
        shape.insert(shape.end(), {heads, value_dim});
        return shape;
    }
    // Allocates the output and describes it.
    Operand output(const Call& call) const {
        float* const data = call.output(0, output_shape()).data;
        if (is_empty) return {};
        return operand(data, count() * heads * value_dim, grid, heads * value_dim, value_dim);
    }
};

// Three numbers, one per grid axis, missing axes first.
inline void per_axis(int64_t* target, const Sizes& values, int64_t missing) {
    const size_t absent = 3 - values.size();
    for (size_t axis = 0; axis < 3; ++axis) target[axis] = axis < absent ? missing : values[axis - absent];
}

// A relative bias, `[heads, 2 * size - 1 per axis]`, or null.
inline const float* relative_bias(const Array& bias, int64_t heads, const Sizes& sizes) {
    if (!bias.is_given) return nullptr;
    Sizes expected{heads};
    for (const int64_t size : sizes) expected.push_back(2 * size - 1);
    require(bias.shape == expected, "bias must be [heads, 2 * size - 1 per axis]");
    return bias.data;
}

// Tokens `[B, *grid, C]` as `[B, N, 1, C]`, one row every `pitch` elements.
inline Operand rows(float* data, const Array& like, int64_t pitch) {
    const int64_t tokens = product(Sizes(like.shape.begin() + 1, like.shape.end() - 1));
    return operand(data, tokens * pitch, {tokens}, pitch, pitch);
}

inline void finish(int code) {
    if (code) throw std::runtime_error("regard: a kernel could not allocate its scratch memory, or start its threads");
}

}  // namespace regard::onnxruntime
