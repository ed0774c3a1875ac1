// The part of ONNX Runtime's C interface that the operators use. The interface is a table of functions that only grows
// at its end; this is its version 17, which onnxruntime 1.17 and newer have. Its names begin with "Ort" there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace regard::onnxruntime {

constexpr uint32_t kApiVersion = 17;
constexpr int kFloat = 1;                       // element types, as in ONNX
constexpr int kFail = 1, kInvalidArgument = 2;  // error codes
constexpr int kRequired = 0, kOptional = 1;

struct Status;  // null is success
struct SessionOptions;
struct KernelInfo;
struct KernelContext;
struct Value;
struct TypeAndShape;
struct Domain;

struct Api {
    void* functions[275];
};

struct ApiBase {
    const Api* (*get_api)(uint32_t version);
    const char* (*get_version)();
};

// A custom operator as ONNX Runtime calls it.
struct CustomOp {
    uint32_t version;
    void* (*create_kernel)(const CustomOp*, const Api*, const KernelInfo*);  // unused: errors have no way out
    const char* (*get_name)(const CustomOp*);
    const char* (*get_execution_provider)(const CustomOp*);
    int (*get_input_type)(const CustomOp*, size_t);
    size_t (*get_input_count)(const CustomOp*);
    int (*get_output_type)(const CustomOp*, size_t);
    size_t (*get_output_count)(const CustomOp*);
    void (*compute)(void*, KernelContext*);  // unused, too
    void (*destroy_kernel)(void*);
    int (*get_input_characteristic)(const CustomOp*, size_t);
    int (*get_output_characteristic)(const CustomOp*, size_t);
    int (*get_input_memory)(const CustomOp*, size_t);
    int (*get_variadic_input_min)(const CustomOp*);
    int (*get_variadic_input_homogeneity)(const CustomOp*);
    int (*get_variadic_output_min)(const CustomOp*);
    int (*get_variadic_output_homogeneity)(const CustomOp*);
    Status* (*create_kernel_with_status)(const CustomOp*, const Api*, const KernelInfo*, void**);
    Status* (*compute_with_status)(void*, KernelContext*);
    Status* (*infer_shapes)(const CustomOp*, void*);
    int (*get_start_version)(const CustomOp*);
    int (*get_end_version)(const CustomOp*);
};

using CreateStatus = Status* (*)(int, const char*);
using GetErrorMessage = const char* (*)(const Status*);
using ReleaseStatus = void (*)(Status*);
using CreateDomain = Status* (*)(const char*, Domain**);
using AddToDomain = Status* (*)(Domain*, const CustomOp*);
using AddDomain = Status* (*)(SessionOptions*, Domain*);
using GetData = Status* (*)(Value*, void**);
using GetElementType = Status* (*)(const TypeAndShape*, int*);
using GetDimensionCount = Status* (*)(const TypeAndShape*, size_t*);
using GetDimensions = Status* (*)(const TypeAndShape*, int64_t*, size_t);
using GetTypeAndShape = Status* (*)(const Value*, TypeAndShape**);
using ReleaseTypeAndShape = void (*)(TypeAndShape*);
using GetFloat = Status* (*)(const KernelInfo*, const char*, float*);
using GetInt = Status* (*)(const KernelInfo*, const char*, int64_t*);
using GetInts = Status* (*)(const KernelInfo*, const char*, int64_t*, size_t*);
using GetInputCount = Status* (*)(const KernelContext*, size_t*);
using GetInput = Status* (*)(const KernelContext*, size_t, const Value**);
using GetOutput = Status* (*)(KernelContext*, size_t, const int64_t*, size_t, Value**);
using ParallelFor = Status* (*)(const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*);

// Places of the functions in the table.
template <typename Function>
constexpr int kPlace = -1;
template <>
inline constexpr int kPlace<CreateStatus> = 0;
template <>
inline constexpr int kPlace<GetErrorMessage> = 2;
template <>
inline constexpr int kPlace<CreateDomain> = 26;
template <>
inline constexpr int kPlace<AddToDomain> = 27;
template <>
inline constexpr int kPlace<AddDomain> = 28;
template <>
inline constexpr int kPlace<GetData> = 51;
template <>
inline constexpr int kPlace<GetElementType> = 60;
template <>
inline constexpr int kPlace<GetDimensionCount> = 61;
template <>
inline constexpr int kPlace<GetDimensions> = 62;
template <>
inline constexpr int kPlace<GetTypeAndShape> = 65;
template <>
inline constexpr int kPlace<GetFloat> = 85;
template <>
inline constexpr int kPlace<GetInt> = 86;
template <>
inline constexpr int kPlace<GetInputCount> = 88;
template <>
inline constexpr int kPlace<GetInput> = 90;
template <>
inline constexpr int kPlace<GetOutput> = 91;
template <>
inline constexpr int kPlace<ReleaseStatus> = 93;
template <>
inline constexpr int kPlace<ReleaseTypeAndShape> = 99;
template <>
inline constexpr int kPlace<GetInts> = 163;
template <>
inline constexpr int kPlace<ParallelFor> = 274;

template <typename Function, typename... Arguments>
auto call(const Api* api, Arguments... arguments) {
    static_assert(kPlace<Function> >= 0);
    return reinterpret_cast<Function>(api->functions[kPlace<Function>])(arguments...);
}

// Calls a function that returns a status, and throws its message if it is an error.
template <typename Function, typename... Arguments>
void check(const Api* api, Arguments... arguments) {
    if (Status* status = call<Function>(api, arguments...)) {
        const std::string message = call<GetErrorMessage>(api, static_cast<const Status*>(status));
        call<ReleaseStatus>(api, status);
        throw std::runtime_error(message);
    }
}

// Runs a body and returns its exception as the runtime's status.
template <typename Body>
Status* guarded(const Api* api, Body body) noexcept {
    try {
        body();
        return nullptr;
    } catch (const std::invalid_argument& error) {
        return call<CreateStatus>(api, kInvalidArgument, error.what());
    } catch (const std::exception& error) {
        return call<CreateStatus>(api, kFail, error.what());
    } catch (...) {
        return call<CreateStatus>(api, kFail, "regard: unknown error");
    }
}

inline void require(bool is_met, const std::string& message) {
    if (!is_met) throw std::invalid_argument("regard: " + message);
}

using Sizes = std::vector<int64_t>;

// The product of sizes. Tensors without elements may have axes whose lengths overflow in any other order.
inline int64_t product(const Sizes& sizes) {
    int64_t result = 1;
    bool is_too_large = false;
    for (const int64_t size : sizes) {
        if (size == 0) return 0;
        is_too_large |= __builtin_mul_overflow(result, size, &result);
    }
    require(!is_too_large, "sizes are too large");
    return result;
}

inline std::string described(const Sizes& sizes) {
    std::string text;
    for (const int64_t size : sizes) text += (text.empty() ? "" : ", ") + std::to_string(size);
    return "[" + text + "]";
}

// The attributes of a node.
struct Attributes {
    const Api* api;
    const KernelInfo* info;

    float real(const char* name) const {
        float value = 0;
        check<GetFloat>(api, info, name, &value);
        return value;
    }
    int64_t whole(const char* name) const {
        int64_t value = 0;
        check<GetInt>(api, info, name, &value);
        return value;
    }
    Sizes list(const char* name) const {
        size_t count = 0;
        check<GetInts>(api, info, name, static_cast<int64_t*>(nullptr), &count);
        Sizes values(count);
        if (count) check<GetInts>(api, info, name, values.data(), &count);
        return values;
    }
};

// A tensor of a call.
struct Array {
    float* data = nullptr;
    Sizes shape;
    bool is_given = false;  // false for an optional input that is absent

    int64_t rank() const { return int64_t(shape.size()); }
    int64_t at(int64_t axis) const { return shape[size_t(axis < 0 ? axis + rank() : axis)]; }
    int64_t count() const { return product(shape); }
};

// One call of a node.
struct Call {
    const Api* api;
    KernelContext* context;

    size_t input_count() const {
        size_t count = 0;
        check<GetInputCount>(api, static_cast<const KernelContext*>(context), &count);
        return count;
    }
    Array input(size_t index) const {
        const Value* value = nullptr;
        if (index < input_count()) check<GetInput>(api, static_cast<const KernelContext*>(context), index, &value);
        return value ? array_of(const_cast<Value*>(value)) : Array{};
    }
    Array output(size_t index, const Sizes& shape) const {
        Value* value = nullptr;
        check<GetOutput>(api, context, index, shape.data(), shape.size(), &value);
        require(value, "all outputs must have a name");
        Array array{nullptr, shape, true};
        void* data = nullptr;
        check<GetData>(api, value, &data);
        array.data = static_cast<float*>(data);
        return array;
    }
    // The shapes of all inputs, for an error.
    std::string shapes() const {
        std::string text;
        for (size_t index = 0; index < input_count(); ++index) {
            const Array one = input(index);
            text += (index ? ", " : "") + (one.is_given ? described(one.shape) : std::string("none"));
        }
        return text;
    }

   private:
    Array array_of(Value* value) const {
        TypeAndShape* type = nullptr;
        check<GetTypeAndShape>(api, static_cast<const Value*>(value), &type);
        Array array{nullptr, {}, true};
        int element = 0;
        size_t rank = 0;
        Status* status = call<GetElementType>(api, static_cast<const TypeAndShape*>(type), &element);
        if (!status) status = call<GetDimensionCount>(api, static_cast<const TypeAndShape*>(type), &rank);
        array.shape.resize(rank);
        if (!status && rank)
            status = call<GetDimensions>(api, static_cast<const TypeAndShape*>(type), array.shape.data(), rank);
        call<ReleaseTypeAndShape>(api, type);
        if (status) {
            call<ReleaseStatus>(api, status);
            throw std::runtime_error("regard: an input has no shape");
        }
        require(element == kFloat, "inputs must be float32");
        void* data = nullptr;
        check<GetData>(api, value, &data);
        array.data = static_cast<float*>(data);
        return array;
    }
};

}  // namespace regard::onnxruntime
