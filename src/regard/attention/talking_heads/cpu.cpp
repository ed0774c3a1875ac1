// Talking-heads attention on the CPU, forward and backward, over tokens [B, N, heads, channels].
//
// A unit of work is a block of queries, whose logits or weights of all heads stay in the cache. Keys and values are
// copied once per batch entry, in the layouts of the products. The bias of the first mix is the same for all keys and
// cancels in the softmax; that of the second mix adds a multiple of the sum of the values.
#include "backward.h"
#include "forward.h"

namespace regard::talking_heads {

struct Mixes {
    const void *logits, *weights, *bias;
};

template <typename T, typename Stored>
Inputs<T, Stored> inputs(const Problem& p, const Operand* o, const Mixes& mixes) {
    return {p,
            tensor<const Stored>(o[0], p.query_dim),
            tensor<const Stored>(o[1], p.query_dim),
            tensor<const Stored>(o[2], p.value_dim),
            static_cast<const T*>(mixes.logits),
            static_cast<const T*>(mixes.weights),
            static_cast<const T*>(mixes.bias)};
}

// Operands: query, key, value; the output, to write. The mixes are contiguous; the bias of the second mix may be null.
REGARD_EXPORT int regard_talking_heads_forward(int64_t dtype, const Problem* problem, const Operand* o,
                                               const void* logits_mix, const void* weights_mix,
                                               const void* weights_bias) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        forward<T, Stored>(inputs<T, Stored>(*problem, o, {logits_mix, weights_mix, weights_bias}),
                           tensor<Stored>(o[3], problem->value_dim));
    });
}

// Operands: query, key, value, gradient of the output; gradients of query, key and value, to write. The last three
// arguments are the gradients of the mixes and of the bias, to write; the last one may be null.
REGARD_EXPORT int regard_talking_heads_backward(int64_t dtype, const Problem* problem, const Operand* o,
                                                const void* logits_mix, const void* weights_mix,
                                                const void* weights_bias, void* logits_mix_grad, void* weights_mix_grad,
                                                void* weights_bias_grad) {
    return for_dtype(dtype, [&](auto value, auto stored) {
        using T = decltype(value);
        using Stored = decltype(stored);
        const Grads<T, Stored> grads{tensor<const Stored>(o[3], problem->value_dim),
                                     tensor<Stored>(o[4], problem->query_dim),
                                     tensor<Stored>(o[5], problem->query_dim),
                                     tensor<Stored>(o[6], problem->value_dim),
                                     static_cast<T*>(logits_mix_grad),
                                     static_cast<T*>(weights_mix_grad),
                                     static_cast<T*>(weights_bias_grad)};
        backward<T, Stored>(inputs<T, Stored>(*problem, o, {logits_mix, weights_mix, weights_bias}), grads);
    });
}

}  // namespace regard::talking_heads
