// Talking-heads attention on the CPU, forward and backward, over tokens [B, N, heads, channels].
//
// A unit of work is a block of queries: the logits of all its heads stay in the cache, and mix, softmax and second mix
// go over them row by row. Keys and values are laid out for the products once. The first mix's bias is the same for all
// keys and cancels in the softmax; the second one's adds a multiple of the values' sum. The backward pass computes the
// weights again per block; gradients of keys and values are collected per thread and added in the threads' order.
#include "block.h"

namespace regard {

constexpr int64_t kForwardBytes = 768 * 1024;  // of a block's logits
constexpr int64_t kBackwardBytes =
    7 * 1024 * 1024;  // of logits and of their gradients: many rows share a pass over all keys

// Adds to every channel of a head's result what the second mix's bias contributes.
template <typename T>
void add_constant(T* rows, int64_t count, int64_t pitch, T factor, const T* sum) {
    for (int64_t r = 0; r < count; ++r) {
        for (int64_t c = 0; c < pitch; c += kLanes<T>) {
            store(rows + r * pitch + c, load(rows + r * pitch + c) + load(sum + c) * factor);
        }
    }
}

template <typename T>
std::vector<T> sums_over_tokens(Heads<T>& values, int64_t heads, int64_t tokens) {
    std::vector<T> sums(size_t(heads * values.pitch));
    for (int64_t head = 0; head < heads; ++head) {
        for (int64_t c = 0; c < values.pitch; ++c) {
            double sum = 0;
            for (int64_t t = 0; t < tokens; ++t) sum += values.of(head)[t * values.pitch + c];
            sums[size_t(head * values.pitch + c)] = T(sum);
        }
    }
    return sums;
}

template <typename T, typename Stored>
void talking_forward(const TalkingInputs<T, Stored>& in, Tensor<Stored> out) {
    const TalkingProblem& p = in.problem;
    const int64_t rows = QueryBlock<T, Stored>::most_rows(p, kForwardBytes), blocks = (p.queries + rows - 1) / rows;
    Heads<T> keys(p.key_heads, p.keys, p.query_dim, true), values(p.value_heads, p.keys, p.value_dim, false);
    for (int64_t batch = 0; batch < p.batch; ++batch) {
        fill(keys, in.key, batch, p.key_heads, p.keys, true, p.threads);
        fill(values, in.value, batch, p.value_heads, p.keys, false, p.threads);
        const std::vector<T> sums =
            in.weights_bias ? sums_over_tokens(values, p.value_heads, p.keys) : std::vector<T>();
        in_parallel(blocks, p.threads, [&](int, int64_t unit, int64_t end) {
            Pieces<T> pieces(QueryBlock<T, Stored>::elements(p, rows) + rows * values.pitch);
            QueryBlock<T, Stored> block(in, rows, pieces);
            T* const result = pieces.take(rows * values.pitch);
            for (; unit < end; ++unit) {
                const int64_t first = unit * rows, count = std::min(rows, p.queries - first);
                block.enter(batch, first, count, keys);
                for (int64_t r = 0; r < count; ++r) {
                    block.softmax(r);
                    block.mix_weights(r, false);
                }
                for (int64_t head = 0; head < p.value_heads; ++head) {
                    product<T>({block.logits + head * block.plane, block.pitch, 1}, values.of(head), values.pitch,
                               result, values.pitch, count, values.pitch, p.keys);
                    if (in.weights_bias)
                        add_constant(result, count, values.pitch, in.weights_bias[head],
                                     sums.data() + head * values.pitch);
                    Stored* const to = out.data + batch * out.strides[0] + head * out.strides[4];
                    for (int64_t r = 0; r < count; ++r) {
                        write_channels<T>(result + r * values.pitch, to + (first + r) * out.strides[3], out.channels,
                                          out.strides[5], T(1));
                    }
                }
            }
        });
    }
}

// out[i][j] += sum over columns of left[i] * right[j], planes of `pitch` and `columns` columns.
template <typename T>
void add_products(const T* left, int64_t left_plane, int64_t m, const T* right, int64_t right_plane, int64_t k,
                  int64_t columns, double* out) {
    constexpr int lanes = kLanes<T>;
    for (int64_t i = 0; i < m; i += 2) {
        for (int64_t j = 0; j < k; j += 4) {
            const int64_t rows = std::min<int64_t>(2, m - i), some = std::min<int64_t>(4, k - j);
            Vector<T> sums[2][4] = {};
            for (int64_t c = 0; c < columns; c += lanes) {
                for (int64_t a = 0; a < rows; ++a) {
                    const Vector<T> one = load(left + (i + a) * left_plane + c);
                    for (int64_t b = 0; b < some; ++b) sums[a][b] += one * load(right + (j + b) * right_plane + c);
                }
            }
            for (int64_t a = 0; a < rows; ++a) {
                for (int64_t b = 0; b < some; ++b) out[(i + a) * k + j + b] += total<T>(sums[a][b]);
            }
        }
    }
}

template <typename T, typename Stored>
struct TalkingGradients {
    Tensor<const Stored> out;
    Tensor<Stored> query, key, value;
    T *logits_mix, *weights_mix, *weights_bias;
};

// What one thread collects: gradients of keys and values of a batch entry, and of the mixes of all.
template <typename T>
struct Collected {
    std::vector<T> key, value;
    std::vector<double> logits_mix, weights_mix, weights_bias;
};

template <typename T>
void clear(std::vector<T>& values, int64_t size) {
    values.assign(size_t(size), T(0));
}

// Turns one row's gradients of mixed weights, in `slopes`, into those of the logits, and collects those of the mixes.
template <typename T, typename Stored>
void slopes_of_row(QueryBlock<T, Stored>& block, int64_t r, T* slopes, T* row_slopes, Collected<T>& collected) {
    constexpr int n = kLanes<T>;
    const TalkingProblem& p = block.in.problem;
    T* const mine = slopes + r * block.pitch;
    for (int64_t head = 0; head < p.heads; ++head) {
        T* const weights = block.row + head * block.pitch;
        for (int64_t k = 0; k < block.pitch; k += n) store(weights + k, load(weights + k) / block.totals[head]);
    }
    add_products<T>(mine, block.plane, p.value_heads, block.row, block.pitch, p.heads, block.pitch,
                    collected.weights_mix.data());
    product<T>({block.in.weights_mix, 1, p.heads}, mine, block.plane, row_slopes, block.pitch, p.heads, block.pitch,
               p.value_heads);
    for (int64_t head = 0; head < p.heads; ++head) {
        T *const weights = block.row + head * block.pitch, *const slope = row_slopes + head * block.pitch;
        Vector<T> sums[4] = {};
        for (int64_t k = 0; k < block.pitch; k += n) sums[k / n % 4] += load(weights + k) * load(slope + k);
        const T mean = total<T>((sums[0] + sums[1]) + (sums[2] + sums[3]));
        for (int64_t k = 0; k < block.pitch; k += n) store(slope + k, load(weights + k) * (load(slope + k) - mean));
    }
    add_products<T>(row_slopes, block.pitch, p.heads, block.logits + r * block.pitch, block.plane, p.key_heads,
                    block.pitch, collected.logits_mix.data());
    product<T>({block.in.logits_mix, 1, p.key_heads}, row_slopes, block.pitch, mine, block.plane, p.key_heads,
               block.pitch, p.heads);
}

// Adds the threads' gradients of keys and values up, in the threads' order, and empties them.
template <typename T, typename Stored>
void write_collected(const TalkingProblem& p, int64_t batch, const TalkingGradients<T, Stored>& gradients,
                     std::vector<Collected<T>>& collected, const Heads<T>& key_rows, const Heads<T>& value_rows) {
    const auto write = [&](Tensor<Stored> tensor, const Heads<T>& heads, int64_t count, auto member) {
        in_parallel(count, p.threads, [&](int, int64_t head, int64_t end) {
            std::vector<T> row(size_t(heads.pitch));
            for (; head < end; ++head) {
                Stored* const to = tensor.data + batch * tensor.strides[0] + head * tensor.strides[4];
                for (int64_t t = 0; t < p.keys; ++t) {
                    std::fill(row.begin(), row.end(), T(0));
                    for (const auto& one : collected) {
                        const std::vector<T>& values = one.*member;
                        for (int64_t c = 0; !values.empty() && c < heads.pitch; ++c)
                            row[size_t(c)] += values[size_t(head * heads.size + t * heads.pitch + c)];
                    }
                    write_channels<T>(row.data(), to + t * tensor.strides[3], tensor.channels, tensor.strides[5], T(1));
                }
            }
        });
    };
    write(gradients.key, key_rows, p.key_heads, &Collected<T>::key);
    write(gradients.value, value_rows, p.value_heads, &Collected<T>::value);
    for (auto& one : collected) {
        one.key.clear();
        one.value.clear();
    }
}

template <typename T, typename Stored>
void talking_backward(const TalkingInputs<T, Stored>& in, const TalkingGradients<T, Stored>& gradients) {
    const TalkingProblem& p = in.problem;
    const int64_t rows = QueryBlock<T, Stored>::most_rows(p, kBackwardBytes / 2),
                  blocks = (p.queries + rows - 1) / rows;
    Heads<T> keys(p.key_heads, p.keys, p.query_dim, true), key_rows(p.key_heads, p.keys, p.query_dim, false);
    Heads<T> values(p.value_heads, p.keys, p.value_dim, true), value_rows(p.value_heads, p.keys, p.value_dim, false);
    std::vector<Collected<T>> collected(size_t(p.threads));
    for (auto& one : collected) {
        clear(one.logits_mix, p.heads * p.key_heads);
        clear(one.weights_mix, p.value_heads * p.heads);
        clear(one.weights_bias, p.value_heads);
    }
    for (int64_t batch = 0; batch < p.batch; ++batch) {
        fill(keys, in.key, batch, p.key_heads, p.keys, true, p.threads);
        fill(key_rows, in.key, batch, p.key_heads, p.keys, false, p.threads);
        fill(values, in.value, batch, p.value_heads, p.keys, true, p.threads);
        fill(value_rows, in.value, batch, p.value_heads, p.keys, false, p.threads);
        const std::vector<T> sums = sums_over_tokens(value_rows, p.value_heads, p.keys);
        in_parallel(blocks, p.threads, [&](int thread, int64_t unit, int64_t end) {
            const int64_t value_pitch = value_rows.pitch, query_pitch = key_rows.pitch;
            Collected<T>& mine = collected[size_t(thread)];
            clear(mine.key, p.key_heads * key_rows.size);
            clear(mine.value, p.value_heads * value_rows.size);
            const int64_t pitch = whole_vectors<T>(p.keys), planes = QueryBlock<T, Stored>::planes(p);
            Pieces<T> pieces(QueryBlock<T, Stored>::elements(p, rows) + (planes * rows + p.heads) * pitch +
                             p.value_heads * rows * value_pitch + rows * query_pitch);
            QueryBlock<T, Stored> block(in, rows, pieces);
            T *const slopes = pieces.take(planes * block.plane), *const row_slopes = pieces.take(p.heads * pitch);
            T *const outs = pieces.take(p.value_heads * rows * value_pitch), *const result =
                                                                                 pieces.take(rows * query_pitch);
            for (; unit < end; ++unit) {
                const int64_t first = unit * rows, count = std::min(rows, p.queries - first);
                block.enter(batch, first, count, keys);
                for (int64_t head = 0; head < p.value_heads; ++head) {
                    T* const out = outs + head * rows * value_pitch;
                    const auto tensor = gradients.out;
                    const Stored* const from = tensor.data + batch * tensor.strides[0] + head * tensor.strides[4];
                    for (int64_t r = 0; r < count; ++r) {
                        read_channels<T>(out + r * value_pitch, value_pitch, from + (first + r) * tensor.strides[3],
                                         tensor.channels, tensor.strides[5], T(1));
                        for (int64_t c = 0; c < tensor.channels; ++c) {
                            mine.weights_bias[size_t(head)] +=
                                double(out[r * value_pitch + c]) * sums[size_t(head * value_pitch + c)];
                        }
                    }
                    product<T>({out, value_pitch, 1}, values.of(head), pitch, slopes + head * block.plane, pitch, count,
                               pitch, p.value_dim);
                }
                for (int64_t r = 0; r < count; ++r) {
                    block.softmax(r);
                    slopes_of_row(block, r, slopes, row_slopes, mine);
                    block.mix_weights(r, true);
                }
                for (int64_t head = 0; head < p.value_heads; ++head) {
                    T *const weights = block.logits + head * block.plane, *const out = outs + head * rows * value_pitch;
                    if (in.weights_bias) {
                        for (int64_t i = 0; i < count * pitch; ++i) weights[i] += in.weights_bias[head];
                    }
                    product<T>({weights, 1, pitch}, out, value_pitch, mine.value.data() + head * value_rows.size,
                               value_pitch, p.keys, value_pitch, count, true);
                }
                for (int64_t head = 0; head < p.key_heads; ++head) {
                    T *const slope = slopes + head * block.plane, *const query =
                                                                      block.query + head * rows * query_pitch;
                    product<T>({slope, 1, pitch}, query, query_pitch, mine.key.data() + head * key_rows.size,
                               query_pitch, p.keys, query_pitch, count, true);
                    product<T>({slope, pitch, 1}, key_rows.of(head), query_pitch, result, query_pitch, count,
                               query_pitch, p.keys);
                    const auto tensor = gradients.query;
                    Stored* const to = tensor.data + batch * tensor.strides[0] + head * tensor.strides[4];
                    for (int64_t r = 0; r < count; ++r) {
                        write_channels<T>(result + r * query_pitch, to + (first + r) * tensor.strides[3],
                                          tensor.channels, tensor.strides[5], T(p.scale));
                    }
                }
            }
        });
        write_collected(p, batch, gradients, collected, key_rows, value_rows);
    }
    const auto add_up = [&](T* to, int64_t size, auto member) {
        for (int64_t i = 0; to && i < size; ++i) {
            double sum = 0;
            for (const auto& one : collected) sum += (one.*member)[size_t(i)];
            to[i] = T(sum);
        }
    };
    add_up(gradients.logits_mix, p.heads * p.key_heads, &Collected<T>::logits_mix);
    add_up(gradients.weights_mix, p.value_heads * p.heads, &Collected<T>::weights_mix);
    add_up(gradients.weights_bias, p.value_heads, &Collected<T>::weights_bias);
}

}  // namespace regard

namespace {

using namespace regard;

struct Mixes {
    const void *logits, *weights, *bias;
};

template <typename T, typename Stored>
TalkingInputs<T, Stored> inputs(const TalkingProblem& p, const Operand* o, const Mixes& mixes) {
    return {p,
            tensor<const Stored>(o[0], p.query_dim),
            tensor<const Stored>(o[1], p.query_dim),
            tensor<const Stored>(o[2], p.value_dim),
            static_cast<const T*>(mixes.logits),
            static_cast<const T*>(mixes.weights),
            static_cast<const T*>(mixes.bias)};
}

}  // namespace

// operands: query, key, value, out. The mixes are contiguous; the bias of the second may be null.
REGARD_EXPORT int regard_talking_heads_forward(int64_t dtype, const TalkingProblem* problem, const Operand* o,
                                               const void* logits_mix, const void* weights_mix,
                                               const void* weights_bias) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        talking_forward<T, Stored>(inputs<T, Stored>(*problem, o, {logits_mix, weights_mix, weights_bias}),
                                   tensor<Stored>(o[3], problem->value_dim));
    });
}

// operands: query, key, value, gradient of out; gradients of query, key, value to write. Then the gradients of the
// mixes.
REGARD_EXPORT int regard_talking_heads_backward(int64_t dtype, const TalkingProblem* problem, const Operand* o,
                                                const void* logits_mix, const void* weights_mix,
                                                const void* weights_bias, void* logits_mix_gradient,
                                                void* weights_mix_gradient, void* weights_bias_gradient) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        const TalkingGradients<T, Stored> gradients{
            tensor<const Stored>(o[3], problem->value_dim), tensor<Stored>(o[4], problem->query_dim),
            tensor<Stored>(o[5], problem->query_dim),       tensor<Stored>(o[6], problem->value_dim),
            static_cast<T*>(logits_mix_gradient),           static_cast<T*>(weights_mix_gradient),
            static_cast<T*>(weights_bias_gradient)};
        talking_backward<T, Stored>(inputs<T, Stored>(*problem, o, {logits_mix, weights_mix, weights_bias}), gradients);
    });
}
