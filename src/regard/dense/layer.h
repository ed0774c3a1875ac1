// A dense layer on packed weights, for a few tokens: product, bias, activation and residual.
#pragma once

#include <algorithm>

#include "../native/product.h"
#include "../native/tensors.h"

namespace regard::dense {

// Weights are packed in panels, [panel][input channel][kPanel], the last one padded with zeros.
constexpr int kPanelVectors = 2;
constexpr int64_t kPanel = kPanelVectors * kLanes<float>;

constexpr int64_t kHidden = 256;  // channels between two layers that are computed at once

enum Activation : int64_t { kNone, kGelu, kSilu };

struct Layer {
    const float *weight, *bias;  // the bias may be null
    int64_t depth, width;

    explicit operator bool() const { return width > 0; }
};

// A part of a layer's product: some of its input channels, for some of its output channels, whole panels.
struct Part {
    const Layer& layer;
    int64_t first_in, last_in, first_out, last_out;
    bool has_bias;

    explicit Part(const Layer& layer) : Part(layer, 0, layer.depth, 0, layer.width, true) {}
    Part(const Layer& layer, int64_t first_in, int64_t last_in, int64_t first_out, int64_t last_out, bool has_bias)
        : layer(layer),
          first_in(first_in),
          last_in(last_in),
          first_out(first_out),
          last_out(last_out),
          has_bias(has_bias && layer.bias) {}

    int64_t depth() const { return last_in - first_in; }
    const float* panel(int64_t column) const { return layer.weight + column * layer.depth + first_in * kPanel; }
};

inline Vector<float> clamp(Vector<float> x, float limit) {
    const Vector<float> low = splat(-limit), high = splat(limit);
    const Vector<float> below = high < x ? high : x;  // keeps NaN
    return low > below ? low : below;
}

// The error function of x / sqrt(2) as x times a quotient of polynomials in x^2, to 1e-8; beyond the clamp it is 1.
struct Gelu {
    Vector<float> operator()(Vector<float> x) const {
        const Vector<float> inner = clamp(x, 5.66f), square = inner * inner;
        Vector<float> above = splat(4.71139886e-8f) * square + 1.27279076e-5f;
        Vector<float> below = splat(1.22180952e-6f) * square + 7.21090875e-5f;
        above = above * square + 3.26472323e-4f;
        below = below * square + 1.85286585e-3f;
        above = above * square + 9.28914497e-3f;
        below = below * square + 2.83137205e-2f;
        above = above * square + 6.6509096e-2f;
        below = below * square + 2.50022919e-1f;
        above = above * square + 7.97884496e-1f;
        below = below * square + 1.0f;
        const Vector<float> half = x * 0.5f;
        return half * clamp(inner * above / below, 1.0f) + half;
    }
};

struct Silu {
    Vector<float> operator()(Vector<float> x) const {
        const Vector<float> sigmoid = splat(1.0f) / (exponential(x < -80.0f ? splat(80.0f) : -x) + 1.0f);
        return x * (x < -80.0f ? splat(0.0f) : sigmoid);
    }
};
struct None {
    Vector<float> operator()(Vector<float> x) const { return x; }
};

// Where rows of a layer's output go.
struct Output {
    float* data;
    int64_t pitch, columns;  // columns from here on
    const float* residual;   // of the same pitch, or null

    Output at(int64_t row, int64_t column) const {
        const int64_t offset = row * pitch + column;
        return {data + offset, pitch, columns - column, residual ? residual + offset : nullptr};
    }
};

// Writes a vector of an output, of which `columns` lanes exist.
inline void write(float* to, const float* residual, int64_t columns, Vector<float> values) {
    if (columns >= kLanes<float>) {
        store(to, residual ? values + load(residual) : values);
    } else {
        for (int64_t lane = 0; lane < columns; ++lane) to[lane] = values[lane] + (residual ? residual[lane] : 0.0f);
    }
}

// Computes one panel of `rows` rows of a layer's output: function(tokens * panel + bias) + residual. Inlined, so that
// the product knows the stride of the channels.
template <typename Function, int rows>
[[gnu::flatten]] void compute_rows(const float* tokens, int64_t pitch, const float* panel, int64_t depth,
                                   const float* bias, const Output& out) {
    constexpr int n = kLanes<float>;
    float sums[rows * kPanel];
    for (int64_t k = 0; k < depth; k += kDepthPerSum)
        product_tile<float, rows, kPanelVectors>({tokens + k, pitch, 1}, panel + k * kPanel, kPanel, sums, kPanel,
                                                 std::min(kDepthPerSum, depth - k), k > 0);
    for (int row = 0; row < rows; ++row) {
        const Output to = out.at(row, 0);
#pragma GCC unroll 2
        for (int v = 0; v < kPanelVectors; ++v) {
            write(to.data + v * n, to.residual ? to.residual + v * n : nullptr, to.columns - v * n,
                  Function()(load(sums + row * kPanel + v * n) + load(bias + v * n)));
        }
    }
}

template <typename Function, int... rows>
constexpr auto rows_function(int64_t count, std::integer_sequence<int, rows...>) {
    constexpr decltype(&compute_rows<Function, 1>) functions[] = {compute_rows<Function, rows + 1>...};
    return functions[count - 1];
}

// Computes one panel of a part's output.
template <typename Function>
void compute_panel(const float* tokens, int64_t pitch, int64_t rows, const Part& part, int64_t column,
                   const Output& out) {
    constexpr int max_rows = kAccumulators / kPanelVectors;
    float bias[kPanel] = {};
    if (part.has_bias) std::copy_n(part.layer.bias + column, std::min(kPanel, part.layer.width - column), bias);
    for (int64_t begin = 0; begin < rows;) {
        const int64_t groups = (rows - begin + max_rows - 1) / max_rows;
        const int64_t count = (rows - begin + groups - 1) / groups;  // groups of nearly equal size
        rows_function<Function>(count, std::make_integer_sequence<int, max_rows>())(
            tokens + begin * pitch, pitch, part.panel(column), part.depth(), bias,
            out.at(begin, column - part.first_out));
        begin += count;
    }
}

// Computes a part of a layer for rows of tokens, which hold the part's input channels only.
inline void compute_part(const float* tokens, int64_t pitch, int64_t rows, const Part& part, int64_t activation,
                         const Output& out) {
    for (int64_t column = part.first_out; column < part.last_out; column += kPanel) {
        if (activation == kGelu) compute_panel<Gelu>(tokens, pitch, rows, part, column, out);
        if (activation == kSilu) compute_panel<Silu>(tokens, pitch, rows, part, column, out);
        if (activation == kNone) compute_panel<None>(tokens, pitch, rows, part, column, out);
    }
}

// Computes a layer, and then another one on what it returned. A part of the channels between them is computed for all
// tokens and used up at once, so that every weight is read once and what is between the layers stays in the cache.
inline void compute_chain(const float* tokens, int64_t pitch, int64_t rows, const Layer& first, const Layer& second,
                          int64_t activation, float* hidden, int64_t hidden_pitch, const Output& out) {
    const int64_t parts = (first.width + kHidden - 1) / kHidden;
    const int64_t size = ((first.width + parts - 1) / parts + kPanel - 1) / kPanel * kPanel;
    for (int64_t begin = 0; begin < first.width; begin += size) {
        const int64_t end = std::min(begin + size, first.width);
        compute_part(tokens, pitch, rows, Part(first, 0, first.depth, begin, end, true), activation,
                     {hidden, hidden_pitch, hidden_pitch, nullptr});
        const Output to{out.data, out.pitch, out.columns, begin ? out.data : out.residual};
        compute_part(hidden, hidden_pitch, rows, Part(second, begin, end, 0, second.width, begin == 0), kNone, to);
    }
}

// The pitch of the channels between two layers: one panel more, so that rows do not fall on each other in the cache.
inline int64_t hidden_pitch_of(const Layer& first) {
    return (std::min(first.width, kHidden) + kPanel - 1) / kPanel * kPanel + kPanel;
}

}  // namespace regard::dense
