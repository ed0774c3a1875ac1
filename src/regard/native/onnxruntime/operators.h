// The operators of the domain "regard": each reads its attributes once, and checks every shape of every call.
#pragma once

#include "shapes.h"

namespace regard::onnxruntime {

struct Neighborhood {
    static constexpr const char* kName = "NeighborhoodAttention";
    static constexpr size_t kInputs = 4, kOutputs = 1, kOptionalFrom = 1;

    struct Axis {
        int64_t length = 1, kernel = 1, dilation = 1, stride = 1, is_causal = 0;
    };
    struct Problem {
        int64_t batch, heads, query_dim, value_dim, threads;
        Axis axes[3];
        double scale;
    };
    Sizes kernel_size, dilation, stride, is_causal;
    double scale;
    bool is_packed;

    explicit Neighborhood(const Attributes& node)
        : kernel_size(node.list("kernel_size")),
          dilation(node.list("dilation")),
          stride(node.list("stride")),
          is_causal(node.list("is_causal")),
          scale(node.real("scale")),
          is_packed(node.whole("packed") != 0) {
        const size_t axes = kernel_size.size();
        require(axes >= 1 && axes <= 3 && dilation.size() == axes && stride.size() == axes && is_causal.size() == axes,
                "kernel_size, dilation, stride and is_causal must have one number per grid axis");
        require_lengths(kernel_size), require_lengths(dilation), require_lengths(stride);
        for (size_t axis = 0; axis < axes; ++axis) {
            require(stride[axis] <= kernel_size[axis], "stride must be at most kernel_size");
        }
    }
    void compute(const Call& call) const {
        const Heads in(call, is_packed);
        require(in.grid.size() == kernel_size.size(), "kernel_size must have one number per grid axis");
        Problem problem{in.batch, in.heads, in.query_dim, in.value_dim, thread_count(), {}, scale};
        for (size_t axis = 0; axis < in.grid.size(); ++axis) {
            require(kernel_size[axis] <= in.grid[axis] / dilation[axis], "kernel_size * dilation must fit the grid");
            problem.axes[3 - in.grid.size() + axis] = {in.grid[axis], kernel_size[axis], dilation[axis], stride[axis],
                                                       is_causal[axis] != 0};
        }
        const float* bias = relative_bias(call.input(3), in.heads, kernel_size);
        const Operand operands[] = {in.query, in.key, in.value, in.output(call)};
        if (in.is_empty) return;
        std::vector<float> statistics(size_t(in.batch * in.count() * in.heads));
        using Function = int (*)(int64_t, const Problem*, const Operand*, const void*, void*);
        static const auto forward = Library::get().function<Function>("regard_neighborhood_forward");
        const InPool pool(call);
        finish(forward(0, &problem, operands, bias, statistics.data()));
    }
};

struct Window {
    static constexpr const char* kName = "WindowAttention";
    static constexpr size_t kInputs = 4, kOutputs = 1, kOptionalFrom = 1;
    static constexpr int64_t kMaxTokens = 1024;  // per window: a thread holds the weights of one window and head

    struct Problem {
        int64_t batch, heads, query_dim, value_dim, threads;
        int64_t length[3], window[3], shift[3];
        double scale;
    };
    Sizes window_size, shift_size;
    double scale;
    bool is_packed;

    explicit Window(const Attributes& node)
        : window_size(node.list("window_size")),
          shift_size(node.list("shift_size")),
          scale(node.real("scale")),
          is_packed(node.whole("packed") != 0) {
        const size_t axes = window_size.size();
        require(axes >= 1 && axes <= 3 && shift_size.size() == axes,
                "window_size and shift_size must have one number per grid axis");
        require_lengths(window_size);
        require(product(window_size) <= kMaxTokens, "windows must have at most 1024 tokens");
        for (size_t axis = 0; axis < axes; ++axis) {
            require(shift_size[axis] >= 0 && shift_size[axis] < window_size[axis],
                    "shift_size must be at least 0 and less than window_size");
        }
    }
    void compute(const Call& call) const {
        const Heads in(call, is_packed);
        require(in.grid.size() == window_size.size(), "window_size must have one number per grid axis");
        for (size_t axis = 0; axis < in.grid.size(); ++axis) {
            require(in.grid[axis] % window_size[axis] == 0, "window_size must divide the grid");
        }
        Problem problem{in.batch, in.heads, in.query_dim, in.value_dim, thread_count(), {}, {}, {}, scale};
        per_axis(problem.length, in.grid, 1), per_axis(problem.window, window_size, 1);
        per_axis(problem.shift, shift_size, 0);
        const float* bias = relative_bias(call.input(3), in.heads, window_size);
        const Operand operands[] = {in.query, in.key, in.value, in.output(call)};
        if (in.is_empty) return;
        using Function = int (*)(int64_t, const Problem*, const Operand*, const void*);
        static const auto forward = Library::get().function<Function>("regard_window_forward");
        const InPool pool(call);
        finish(forward(0, &problem, operands, bias));
    }
};

struct TalkingHeads {
    static constexpr const char* kName = "TalkingHeadsAttention";
    static constexpr size_t kInputs = 6, kOutputs = 1, kOptionalFrom = 5;

    struct Problem {
        int64_t batch, queries, keys, query_dim, value_dim, key_heads, heads, value_heads, threads;
        double scale;
    };
    double scale;

    explicit TalkingHeads(const Attributes& node) : scale(node.real("scale")) {}

    void compute(const Call& call) const {
        const Array query = call.input(0), key = call.input(1), value = call.input(2);
        const Array first = call.input(3), second = call.input(4), bias = call.input(5);
        require(query.rank() == 4 && key.rank() == 4 && value.rank() == 4, "tokens must be [B, N, heads, channels]");
        require(key.at(0) == query.at(0) && key.at(2) == query.at(2) && key.at(3) == query.at(3),
                "key must have query's batch, heads and channels");
        require(first.rank() == 2 && first.at(1) == query.at(2), "logits_mix must be [softmax heads, query's heads]");
        require(second.rank() == 2 && second.at(1) == first.at(0),
                "weights_mix must be [value's heads, softmax heads]");
        require(value.at(0) == key.at(0) && value.at(1) == key.at(1) && value.at(2) == second.at(0),
                "value must have key's batch and tokens, and weights_mix's heads");
        require(!bias.is_given || bias.shape == Sizes{second.at(0)}, "weights_bias must be [value's heads]");
        const Array out = call.output(0, {query.at(0), query.at(1), value.at(2), value.at(3)});
        if (out.count() == 0) return;
        require(key.at(1) > 0 && query.at(2) > 0 && query.at(3) > 0 && first.at(0) > 0,
                "there is nothing to attend to");
        require(query.at(3) <= kMaxHeadDim && value.at(3) <= kMaxHeadDim, "heads must have 1 to 256 channels");
        require(key.at(1) <= kMaxLength && first.at(0) <= kMaxLength, "there are more than 2 ** 30 keys or heads");
        const int64_t width = value.at(2) * value.at(3);
        const Problem problem{query.at(0), query.at(1), key.at(1),   query.at(3),    value.at(3),
                              query.at(2), first.at(0), value.at(2), thread_count(), scale};
        const auto tokens = [](const Array& array, int64_t row) {
            return operand(array.data, array.at(1) * row, {array.at(1)}, row, array.at(3));
        };
        const Operand operands[] = {tokens(query, query.at(2) * query.at(3)), tokens(key, key.at(2) * key.at(3)),
                                    tokens(value, width), tokens(out, width)};
        using Function = int (*)(int64_t, const Problem*, const Operand*, const void*, const void*, const void*);
        static const auto forward = Library::get().function<Function>("regard_talking_heads_forward");
        const InPool pool(call);
        finish(forward(0, &problem, operands, first.data, second.data, bias.data));
    }
};

struct Additive {
    static constexpr const char* kName = "AdditiveAttention";
    static constexpr size_t kInputs = 4, kOutputs = 1, kOptionalFrom = 4;

    struct Problem {
        int64_t batch, tokens, heads, head_dim, threads;
        double scale;
    };
    double scale;

    explicit Additive(const Attributes& node) : scale(node.real("scale")) {}

    void compute(const Call& call) const {
        const Array query = call.input(0), key = call.input(1);
        const Array query_weight = call.input(2), key_weight = call.input(3);
        require(query.rank() >= 4 && query.rank() <= 6, "query must be [B, *grid, heads, channels]");
        require(key.shape == query.shape, "key must have query's shape");
        const int64_t heads = query.at(-2), width = product({heads, query.at(-1)});
        const Sizes table{heads, width};
        require(query_weight.shape == table && key_weight.shape == table, "weights must be [heads, heads * channels]");
        const Array out = call.output(0, query.shape);
        if (out.count() == 0) return;
        const int64_t tokens = query.count() / (query.at(0) * width);
        const Problem problem{query.at(0), tokens, heads, query.at(-1), thread_count(), scale};
        const auto flat = [&](float* data) { return operand(data, tokens * width, {tokens}, width, width); };
        const Operand operands[] = {flat(query.data), flat(key.data), flat(out.data)};
        using Function = int (*)(int64_t, const Problem*, const Operand*, const void*, const void*);
        static const auto forward = Library::get().function<Function>("regard_additive_forward");
        const InPool pool(call);
        finish(forward(0, &problem, operands, query_weight.data, key_weight.data));
    }
};

struct EfficientAdditive {
    static constexpr const char* kName = "EfficientAdditiveAttention";
    static constexpr size_t kInputs = 3, kOutputs = 2, kOptionalFrom = 3;

    struct Problem {
        int64_t batch, tokens, channels, threads, token_norm;
        double scale, min_norm;
    };
    double scale;
    int64_t token_norm;  // 0 softmax, 1 l2, 2 ones

    explicit EfficientAdditive(const Attributes& node)
        : scale(node.real("scale")),
          token_norm(node.whole("token_norm")) {
        require(token_norm >= 0 && token_norm <= 2, "token_norm must be 0, 1 or 2");
    }
    void compute(const Call& call) const {
        const Array query = call.input(0), key = call.input(1), weight = call.input(2);
        require(query.rank() >= 3 && query.rank() <= 5, "query must be [B, *grid, channels]");
        require(key.shape == query.shape, "key must have query's shape");
        const int64_t channels = query.at(-1);
        require(weight.shape == Sizes{channels}, "weight must be [channels]");
        const Array out = call.output(0, query.shape), unit = call.output(1, query.shape);
        if (out.count() == 0) return;
        const int64_t tokens = query.count() / (query.at(0) * channels);
        const Problem problem{query.at(0), tokens, channels, thread_count(), token_norm, scale, 1e-12};
        const Operand operands[] = {rows(query.data, query, channels), rows(key.data, query, channels),
                                    rows(out.data, query, channels), rows(unit.data, query, channels)};
        using Function = int (*)(int64_t, const Problem*, const Operand*, const void*);
        static const auto forward = Library::get().function<Function>("regard_efficient_additive_forward");
        const InPool pool(call);
        finish(forward(0, &problem, operands, weight.data));
    }
};

struct Separable {
    static constexpr const char* kName = "SeparableAttention";
    static constexpr size_t kInputs = 3, kOutputs = 1, kOptionalFrom = 1;

    struct Problem {
        int64_t batch, channels, threads;
        int64_t keys[3], values[3], patch[3];
    };
    Sizes patch_size;
    bool is_packed;

    explicit Separable(const Attributes& node)
        : patch_size(node.list("patch_size")),
          is_packed(node.whole("packed") != 0) {
        require(patch_size.size() >= 1 && patch_size.size() <= 3, "patch_size must have one number per grid axis");
        require_lengths(patch_size);
    }
    void compute(const Call& call) const {
        const Array first = call.input(0);
        require(first.rank() == int64_t(patch_size.size()) + 2, "patch_size must have one number per grid axis");
        const Array second = call.input(1), third = call.input(2);
        const Array &key = is_packed ? first : second, &value = is_packed ? first : third;
        if (is_packed) {
            require(first.at(-1) % 2 == 1, "a packed input must be [B, *grid, 1 + 2 * channels]");
            require(!second.is_given && !third.is_given, "a packed node has no inputs key and value");
        }
        require(key.rank() == first.rank() && value.rank() == first.rank(), "tensors must have equal numbers of axes");
        const int64_t channels = is_packed ? first.at(-1) / 2 : key.at(-1);
        const Sizes keys(key.shape.begin() + 1, key.shape.end() - 1),
            values(value.shape.begin() + 1, value.shape.end() - 1);
        require(std::equal(first.shape.begin(), first.shape.end() - 1, key.shape.begin()) && value.at(0) == first.at(0),
                "query and key must have one batch and grid, and value their batch");
        require(is_packed || (first.at(-1) == 1 && value.at(-1) == channels),
                "query has one channel, and value those of key");
        for (size_t axis = 0; axis < patch_size.size(); ++axis) {
            require(keys[axis] % patch_size[axis] == 0 && values[axis] % patch_size[axis] == 0,
                    "patch_size must divide the grids");
        }
        Sizes shape = value.shape;
        shape.back() = channels;
        const Array out = call.output(0, shape);
        if (out.count() == 0) return;
        require(first.count() > 0, "there is nothing to attend to");
        require(product(keys) <= kMaxLength && product(values) <= kMaxLength, "there are more than 2 ** 30 tokens");
        Problem problem{first.at(0), channels, thread_count(), {}, {}, {}};
        per_axis(problem.keys, keys, 1), per_axis(problem.values, values, 1), per_axis(problem.patch, patch_size, 1);
        const int64_t pitch = 1 + 2 * channels;
        const Operand packed[] = {rows(first.data, first, pitch), rows(first.data + 1, first, pitch),
                                  rows(first.data + 1 + channels, first, pitch), rows(out.data, out, channels)};
        const Operand apart[] = {rows(first.data, first, 1), rows(key.data, key, channels),
                                 rows(value.data, value, channels), rows(out.data, out, channels)};
        using Function = int (*)(int64_t, const Problem*, const Operand*);
        static const auto forward = Library::get().function<Function>("regard_separable_forward");
        const InPool pool(call);
        finish(forward(0, &problem, is_packed ? packed : apart));
    }
};

}  // namespace regard::onnxruntime
