// Blocks of convolutional networks on the CPU, for inference: a dense layer that widens, a depth-wise convolution, one
// or two dense layers, and the residual. A few lines of the image stay in the cache from the first step to the last.
#include <vector>

#include "../native/memory.h"
#include "../native/threads.h"
#include "layer.h"

namespace regard::dense {

constexpr int64_t kGroupTokens = 64;  // of the output, at least, where an image has as many
constexpr int kMaxTaps = 49;

struct DepthwiseProblem {
    int64_t batch, height, width, channels;  // of the input
    int64_t out_height, out_width, size, stride, padding;
    int64_t widths[3];       // of the layer before, 0 without one, and of those after, the last 0 if there is one
    int64_t activations[3];  // after the layer before, after the convolution, and between the layers after
    int64_t threads;
};

struct DepthwiseWeights {
    Layer before, after[2];
    const float *taps, *bias;  // [tap][channel]; the bias may be null
};

// Returns how many lines of the output are computed together: enough tokens for a product, and work for all threads.
inline int64_t lines_per_group(const DepthwiseProblem& p) {
    int64_t groups = std::max(p.out_height * p.out_width / kGroupTokens, int64_t(1));
    if (p.batch % p.threads) groups = (groups + p.threads - 1) / p.threads * p.threads;
    groups = std::min(groups, p.out_height);
    return (p.out_height + groups - 1) / groups;
}

// A group of output lines and the lines that they read, which are kept while an image is walked from top to bottom.
class Lines {
   public:
    Lines(const DepthwiseProblem& problem, const DepthwiseWeights& weights)
        : p(problem),
          w(weights),
          channels(w.before ? w.before.width : p.channels),
          pitch(w.before ? (channels + kPanel - 1) / kPanel * kPanel : channels),
          group(lines_per_group(problem)),
          slots((group - 1) * p.stride + p.size),
          groups((p.out_height + group - 1) / group),
          last(w.after[1] ? w.after[1] : w.after[0]),
          hidden_pitch(w.after[1] ? hidden_pitch_of(w.after[0]) : 0) {}

    int64_t units() const { return p.batch * groups; }
    int64_t scratch() const {
        const int64_t tokens = group * p.out_width;
        return (w.before ? slots * p.width * pitch : 0) + tokens * (channels + hidden_pitch) + channels;
    }
    void run(int64_t begin, int64_t end, const float* image, float* out, bool has_residual, float* scratch) {
        ring = scratch;
        convolved = ring + (w.before ? slots * p.width * pitch : 0);
        hidden = convolved + group * p.out_width * channels;
        zeros = hidden + group * p.out_width * hidden_pitch;
        for (int64_t unit = begin; unit < end; ++unit) {
            const int64_t batch = unit / groups, first = unit % groups * group;
            if (unit == begin || first == 0) done = 0;
            compute_group(image + batch * p.height * p.width * p.channels, first, std::min(group, p.out_height - first),
                          out + batch * p.out_height * p.out_width * last.width, has_residual);
        }
    }

   private:
    const DepthwiseProblem& p;
    const DepthwiseWeights& w;
    const int64_t channels, pitch, group, slots, groups;
    const Layer& last;
    const int64_t hidden_pitch;
    float *ring, *convolved, *hidden;
    const float* zeros;
    int64_t done = 0;  // lines of the input before this one are computed, if they are still needed

    void compute_group(const float* image, int64_t first, int64_t count, float* out, bool has_residual) {
        if (w.before) widen(image, first * p.stride - p.padding, (first + count - 1) * p.stride - p.padding + p.size);
        for (int64_t line = 0; line < count; ++line)
            convolve_line(image, first + line, convolved + line * p.out_width * channels);
        const int64_t tokens = count * p.out_width, offset = first * p.out_width * last.width;
        const Output to{out + offset, last.width, last.width, has_residual ? image + offset : nullptr};
        if (w.after[1])
            compute_chain(convolved, channels, tokens, w.after[0], w.after[1], p.activations[2], hidden, hidden_pitch,
                          to);
        else
            compute_part(convolved, channels, tokens, Part(last), kNone, to);
    }

    // Computes the layer before for the lines from `begin` to `end` that are missing.
    void widen(const float* image, int64_t begin, int64_t end) {
        int64_t line = std::max({begin, done, int64_t(0)});
        end = std::min(end, p.height);
        done = std::max(done, end);
        while (line < end) {
            const int64_t slot = line % slots, count = std::min(end - line, slots - slot);
            compute_part(image + line * p.width * p.channels, p.channels, count * p.width, Part(w.before),
                         p.activations[0], {ring + slot * p.width * pitch, pitch, pitch, nullptr});
            line += count;
        }
    }

    const float* source(const float* image, int64_t y, int64_t x) const {
        if (y < 0 || y >= p.height || x < 0 || x >= p.width) return zeros;
        return w.before ? ring + (y % slots * p.width + x) * pitch : image + (y * p.width + x) * pitch;
    }

    void convolve_line(const float* image, int64_t line, float* out) const {
        const float* from[kMaxTaps];
        for (int64_t x = 0; x < p.out_width; ++x, out += channels) {
            for (int64_t dy = 0; dy < p.size; ++dy)
                for (int64_t dx = 0; dx < p.size; ++dx)
                    from[dy * p.size + dx] =
                        source(image, line * p.stride - p.padding + dy, x * p.stride - p.padding + dx);
            if (p.activations[1] == kGelu) convolve_token<Gelu>(from, out);
            if (p.activations[1] == kSilu) convolve_token<Silu>(from, out);
            if (p.activations[1] == kNone) convolve_token<None>(from, out);
        }
    }

    // The last vector overlaps the one before, so that none reaches beyond the token.
    template <typename Function>
    void convolve_token(const float* const* from, float* out) const {
        constexpr int n = kLanes<float>;
        int64_t channel = 0;
        for (; channel + 4 * n <= channels; channel += 4 * n) convolve_vectors<Function, 4>(from, channel, out);
        for (; channel + n <= channels; channel += n) convolve_vectors<Function, 1>(from, channel, out);
        if (channel < channels) convolve_vectors<Function, 1>(from, channels - n, out);
    }

    template <typename Function, int vectors>
    void convolve_vectors(const float* const* from, int64_t channel, float* out) const {
        constexpr int n = kLanes<float>;
        Vector<float> sums[vectors];
        for (int v = 0; v < vectors; ++v) sums[v] = w.bias ? load(w.bias + channel + v * n) : splat(0.0f);
        const float* taps = w.taps + channel;
        for (int64_t tap = 0; tap < p.size * p.size; ++tap, taps += channels) {
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v) sums[v] += load(from[tap] + channel + v * n) * load(taps + v * n);
        }
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) store(out + channel + v * n, Function()(sums[v]));
    }
};

// Images [batch][y][x][channel]; weights and biases of the layer before, the convolution and the layers after, null
// where there is none; the output, to write. With a residual, the image is added to the output, of the same shape.
REGARD_EXPORT int regard_depthwise(int64_t, const DepthwiseProblem* problem, const float* image, const float* weight0,
                                   const float* bias0, const float* taps, const float* bias, const float* weight1,
                                   const float* bias1, const float* weight2, const float* bias2, const void* residual,
                                   float* out) {
    const DepthwiseProblem& p = *problem;
    const int64_t channels = p.widths[0] ? p.widths[0] : p.channels;
    const DepthwiseWeights weights{
        {weight0, bias0, p.channels, p.widths[0]},
        {{weight1, bias1, channels, p.widths[1]}, {weight2, bias2, p.widths[1], p.widths[2]}},
        taps,
        bias};
    try {
        in_parallel(Lines(p, weights).units(), p.threads, [&](int, int64_t begin, int64_t end) {
            Lines lines(p, weights);
            Scratch<float> scratch(lines.scratch());
            lines.run(begin, end, image, out, residual, scratch.take(lines.scratch()));
        });
    } catch (const std::exception&) {  // bad_alloc
        return 1;
    }
    return 0;
}

}  // namespace regard::dense
