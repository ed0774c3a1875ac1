// Dense layers on the CPU, for inference: one or two, with the normalization before them, the activation between them
// and the residual after them. A tile of tokens stays in the cache from the first step to the last.
#include <cmath>

#include "../native/memory.h"
#include "../native/threads.h"
#include "layer.h"

namespace regard::dense {

constexpr int64_t kTileFloats = 96 * 1024;  // of a tile's tokens and hidden channels: less than the L2 cache
constexpr int64_t kMinTokens = 48, kMaxTokens = 256;

struct Problem {
    int64_t tokens, channels, widths[2];  // the second width is 0 if there is one layer
    int64_t activation, threads;          // the activation follows the first layer
    double epsilon;                       // of the normalization; negative without one
};

// Writes a token with mean 0 and variance 1, padded with zeros.
void normalize(const float* token, int64_t channels, float epsilon, float* out, int64_t pitch) {
    constexpr int n = kLanes<float>;
    read_channels(out, pitch, token, channels, 1, 1.0f);
    const Padding<float> padding(channels);
    Vector<float> sum{}, squares{};
    for (int64_t c = 0; c < pitch; c += n) sum += load(out + c);
    const float mean = sum_lanes<float>(sum) / float(channels);
    for (int64_t c = 0; c < pitch; c += n) store(out + c, load(out + c) - mean);
    padding.clear(out);
    for (int64_t c = 0; c < pitch; c += n) squares += load(out + c) * load(out + c);
    const float factor = 1 / std::sqrt(sum_lanes<float>(squares) / float(channels) + epsilon);
    for (int64_t c = 0; c < pitch; c += n) store(out + c, load(out + c) * factor);
}

// The layers of a call, and the sizes of its tiles.
struct Plan {
    const Problem& problem;
    Layer layers[2];
    int64_t token_pitch, hidden_pitch, max_rows;

    Plan(const Problem& p, const float* const (&weights)[2], const float* const (&biases)[2])
        : problem(p),
          layers{{weights[0], biases[0], p.channels, p.widths[0]}, {weights[1], biases[1], p.widths[0], p.widths[1]}},
          token_pitch(padded_size<float>(p.channels)),
          hidden_pitch(is_chain() ? hidden_pitch_of(layers[0]) : 0),
          max_rows(std::clamp(kTileFloats / (token_pitch + hidden_pitch), kMinTokens, kMaxTokens)) {}

    bool is_chain() const { return problem.widths[1] > 0; }
    bool is_normalized() const { return problem.epsilon >= 0; }
    int64_t out_width() const { return problem.widths[is_chain()]; }
    int64_t scratch() const { return max_rows * (hidden_pitch + (is_normalized() ? token_pitch : 0)); }
};

// Computes the output of a tile of tokens.
void compute_tile(const Plan& plan, const float* tokens, int64_t rows, const Output& out, float* scratch) {
    const Problem& p = plan.problem;
    float* const hidden = scratch;
    int64_t pitch = p.channels;
    if (plan.is_normalized()) {
        float* const normalized = hidden + plan.max_rows * plan.hidden_pitch;
        for (int64_t row = 0; row < rows; ++row)
            normalize(tokens + row * pitch, p.channels, float(p.epsilon), normalized + row * plan.token_pitch,
                      plan.token_pitch);
        tokens = normalized;
        pitch = plan.token_pitch;
    }
    if (plan.is_chain())
        compute_chain(tokens, pitch, rows, plan.layers[0], plan.layers[1], p.activation, hidden, plan.hidden_pitch,
                      out);
    else
        compute_part(tokens, pitch, rows, Part(plan.layers[0]), p.activation, out);
}

REGARD_EXPORT int64_t regard_dense_panel() { return kPanel; }

// Tokens [tokens][channels]; per layer a packed weight and a bias, null where there is none; the residual, or null;
// the output, to write.
REGARD_EXPORT int regard_dense(int64_t, const Problem* problem, const float* tokens, const float* weight1,
                               const float* bias1, const float* weight2, const float* bias2, const float* residual,
                               float* out) {
    const Problem& p = *problem;
    try {
        const int64_t width = p.widths[p.widths[1] > 0];
        const Output all{out, width, width, residual};
        const Plan plan(p, {weight1, weight2}, {bias1, bias2});
        in_parallel(p.tokens, p.threads, [&](int, int64_t begin, int64_t end) {
            Scratch<float> scratch(plan.scratch());
            float* const memory = scratch.take(plan.scratch());
            const int64_t tiles = (end - begin + plan.max_rows - 1) / plan.max_rows;
            for (int64_t tile = 0; tile < tiles; ++tile) {
                const int64_t first = begin + tile * (end - begin) / tiles;
                const int64_t last = begin + (tile + 1) * (end - begin) / tiles;
                compute_tile(plan, tokens + first * p.channels, last - first, all.at(first, 0), memory);
            }
        });
    } catch (const std::exception&) {  // bad_alloc
        return 1;
    }
    return 0;
}

}  // namespace regard::dense
