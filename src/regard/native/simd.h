// Vectors of lanes. The only file with intrinsics; all other files use the operators of GCC's and Clang's vector types.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace regard {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T>
struct Types;
template <>
struct Types<float> {
    typedef float Vector __attribute__((vector_size(kVectorBytes)));
    typedef int32_t Index __attribute__((vector_size(kVectorBytes)));
    typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
};
template <>
struct Types<double> {
    typedef double Vector __attribute__((vector_size(kVectorBytes)));
    typedef int64_t Index __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
using Vector = typename Types<T>::Vector;
template <typename T>
using Index = typename Types<T>::Index;
template <typename T>
constexpr int kLanes = kVectorBytes / sizeof(T);

template <typename T>
inline Vector<T> load(const T* from) {
    Vector<T> vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

template <typename T>
inline void store(T* to, Vector<T> vector) {
    std::memcpy(to, &vector, sizeof vector);
}

// Keeps a vector in a register, where a compiler would load it again for each use.
template <typename T>
inline Vector<T> in_register(Vector<T> vector) {
#if defined(__x86_64__)
    asm("" : "+v"(vector));
#elif defined(__aarch64__)
    asm("" : "+w"(vector));
#endif
    return vector;
}

template <typename T>
inline Vector<T> splat(T value) {
    return Vector<T>{} + value;
}

// The vector 0, 1, 2 ...
template <typename T>
inline Index<T> lane_numbers() {
    Index<T> numbers;
#pragma GCC unroll 16
    for (int lane = 0; lane < kLanes<T>; ++lane) numbers[lane] = lane;
    return numbers;
}

template <typename T>
inline Vector<T> maximum(Vector<T> a, Vector<T> b) {
    return a > b ? a : b;
}

// The logit of a masked key.
template <typename T>
constexpr T kMasked = -std::numeric_limits<T>::infinity();

// Selects lanes: lane l of the result is element index[l] of the 2 * kLanes elements of a and b.
template <typename T>
inline Vector<T> shuffle(Vector<T> a, Vector<T> b, Index<T> index) {
    T both[2 * kLanes<T>];
    store(both, a);
    store(both + kLanes<T>, b);
    Vector<T> result;
    for (int lane = 0; lane < kLanes<T>; ++lane) result[lane] = both[index[lane]];
    return result;
}
#if defined(__AVX512F__)
template <>
inline Vector<float> shuffle<float>(Vector<float> a, Vector<float> b, Index<float> index) {
    return (Vector<float>)_mm512_permutex2var_ps((__m512)a, (__m512i)index, (__m512)b);
}
template <>
inline Vector<double> shuffle<double>(Vector<double> a, Vector<double> b, Index<double> index) {
    return (Vector<double>)_mm512_permutex2var_pd((__m512d)a, (__m512i)index, (__m512d)b);
}
#elif defined(__AVX2__)
template <>
inline Vector<float> shuffle<float>(Vector<float> a, Vector<float> b, Index<float> index) {
    const __m256i places = (__m256i)index;
    const __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(places, 28));  // bit 3 becomes the sign
    return (Vector<float>)_mm256_blendv_ps(_mm256_permutevar8x32_ps((__m256)a, places),
                                           _mm256_permutevar8x32_ps((__m256)b, places), second);
}
#endif

// Reduces a vector to one number: halves are combined, then quarters, until one lane is left.
template <typename T, int step = kLanes<T> / 2, typename Combine>
inline T reduce(Vector<T> values, Combine combine) {
    if constexpr (step == 0) {
        return values[0];
    } else {
        Index<T> next;
#pragma GCC unroll 16
        for (int lane = 0; lane < kLanes<T>; ++lane) next[lane] = (lane + step) % kLanes<T>;
        return reduce<T, step / 2>(combine(values, shuffle<T>(values, values, next)), combine);
    }
}

// The sum and the maximum of a vector's lanes; the maximum is NaN if a lane is.
template <typename T>
inline T sum_lanes(Vector<T> values) {
    return reduce<T>(values, [](Vector<T> a, Vector<T> b) { return a + b; });
}

template <typename T>
inline T max_lane(Vector<T> values) {
    return reduce<T>(values, [](Vector<T> a, Vector<T> b) { return ((a > b) | (a != a)) ? a : b; });
}

// Computes e^x to float32 rounding for x up to 80. The result is 0 below the smallest normal number, and NaN for NaN.
inline Vector<float> exponential(Vector<float> x) {
    const Vector<float> rounder = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to whole numbers
    const Vector<float> shifted = x * 1.44269504f + rounder;
    const Vector<float> whole = shifted - rounder;
    const Vector<float> rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;  // ln 2 in two parts
    Vector<float> series = splat(1.98756915e-4f);
    series = series * rest + 1.39819995e-3f;
    series = series * rest + 8.33345187e-3f;
    series = series * rest + 4.16657962e-2f;
    series = series * rest + 1.66666655e-1f;
    series = series * rest + 0.5f;
    series = series * rest * rest + rest + 1.0f;
    using Bits = Types<float>::Bits;
    const Bits power = ((Bits)shifted - (Bits)rounder) << 23;
    const Vector<float> result = (Vector<float>)((Bits)series + power);
    const Vector<float> beyond = x == x ? splat(0.0f) : x;
    return x > -87.3f ? result : beyond;
}
inline Vector<double> exponential(Vector<double> x) {
    for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::exp(x[lane]);
    return x;
}

// One step of a transpose: rows at distance `step` exchange every other run of `step` lanes.
template <typename T, int step, int... lane>
inline void exchange(Vector<T>* rows, std::integer_sequence<int, lane...> lanes) {
    constexpr int n = kLanes<T>;
    if constexpr (step < n) {
#pragma GCC unroll 16
        for (int row = 0; row < n; ++row) {
            if (row & step) continue;
            const Vector<T> first = rows[row], second = rows[row + step];
            rows[row] = __builtin_shufflevector(first, second, (lane & step ? n + lane - step : lane)...);
            rows[row + step] = __builtin_shufflevector(first, second, (lane & step ? n + lane : lane + step)...);
        }
        exchange<T, 2 * step>(rows, lanes);
    }
}

// Transposes a kLanes x kLanes block in place.
template <typename T>
inline void transpose(Vector<T>* rows) {
    exchange<T, 1>(rows, std::make_integer_sequence<int, kLanes<T>>());
}

// The 16-bit element types of tensors. They are only stored: all arithmetic is in float or double.
struct BFloat16 {
    uint16_t bits;
};
struct Half {
    uint16_t bits;
};

inline float widen(float value) { return value; }
inline double widen(double value) { return value; }
inline float widen(BFloat16 value) {
    const uint32_t bits = uint32_t(value.bits) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}
inline float widen(Half value) {
    const uint32_t magnitude = value.bits & 0x7fffu, sign = uint32_t(value.bits & 0x8000u) << 16;
    uint32_t bits = magnitude << 13;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    result *= 0x1p112f;  // corrects the exponent's bias, also for subnormal numbers
    std::memcpy(&bits, &result, sizeof bits);
    if (magnitude >= 0x7c00u) bits |= 0x7f800000u;
    bits |= sign;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

template <typename Stored>
inline Stored narrow(double value) {
    return Stored(value);
}
template <>
inline BFloat16 narrow<BFloat16>(double value) {
    const float single = float(value);
    uint32_t bits;
    std::memcpy(&bits, &single, sizeof bits);
    if (single != single) return {uint16_t(bits >> 16 | 0x40)};
    return {uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};  // to nearest, ties to even
}
template <>
inline Half narrow<Half>(double value) {
    const float single = float(value);
    uint32_t bits;
    std::memcpy(&bits, &single, sizeof bits);
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return {uint16_t(sign | 0x7e00u)};
    if (bits >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};  // rounds to infinity
    if (bits < 0x38800000u) {                                    // subnormal: the adder rounds
        float scaled;
        std::memcpy(&scaled, &bits, sizeof scaled);
        scaled += 0.5f;
        std::memcpy(&bits, &scaled, sizeof bits);
        return {uint16_t(sign | (bits - 0x3f000000u))};
    }
    bits += 0xc8000fffu + (bits >> 13 & 1);
    return {uint16_t(sign | bits >> 13)};
}

// Load and store a vector of contiguous stored elements.
template <typename T, typename Stored>
inline Vector<T> load_as(const Stored* from) {
    T values[kLanes<T>];
    for (int lane = 0; lane < kLanes<T>; ++lane) values[lane] = widen(from[lane]);
    return load(values);
}
template <>
inline Vector<float> load_as<float, float>(const float* from) {
    return load(from);
}
template <typename T, typename Stored>
inline void store_as(Stored* to, Vector<T> vector) {
    for (int lane = 0; lane < kLanes<T>; ++lane) to[lane] = narrow<Stored>(vector[lane]);
}
template <>
inline void store_as<float, float>(float* to, Vector<float> vector) {
    store(to, vector);
}
#if defined(__AVX512F__)
template <>
inline Vector<float> load_as<float, BFloat16>(const BFloat16* from) {
    const __m256i bits = _mm256_loadu_si256((const __m256i*)from);
    return (Vector<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
}
template <>
inline Vector<float> load_as<float, Half>(const Half* from) {
    return (Vector<float>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
}
template <>
inline void store_as<float, Half>(Half* to, Vector<float> vector) {
    _mm256_storeu_si256((__m256i*)to, _mm512_cvtps_ph((__m512)vector, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
template <>
inline void store_as<float, BFloat16>(BFloat16* to, Vector<float> vector) {
    using Bits = Types<float>::Bits;
    const Bits bits = (Bits)vector;
    const Bits rounded = bits + 0x7fff + (bits >> 16 & 1);
    const Bits chosen = vector == vector ? rounded : (bits | 0x400000);
    _mm256_storeu_si256((__m256i*)to, _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)chosen, 16)));
}
#endif

}  // namespace regard
