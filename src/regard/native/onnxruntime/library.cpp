// An ONNX Runtime library of custom operators with regard's kernels, float32 on the CPU:
// `SessionOptions.register_custom_ops_library`.
#include "operators.h"

namespace regard::onnxruntime {

const Api* g_api = nullptr;  // that of the runtime that loaded this library

// The table of functions by which ONNX Runtime calls an operator.
template <typename Operator>
const CustomOp* definition() {
    static const CustomOp op = [] {
        CustomOp made{};
        made.version = kApiVersion;
        made.get_name = [](const CustomOp*) { return Operator::kName; };
        made.get_execution_provider = [](const CustomOp*) -> const char* { return nullptr; };
        made.get_input_type = [](const CustomOp*, size_t) { return kFloat; };
        made.get_input_count = [](const CustomOp*) { return Operator::kInputs; };
        made.get_output_type = [](const CustomOp*, size_t) { return kFloat; };
        made.get_output_count = [](const CustomOp*) { return Operator::kOutputs; };
        made.destroy_kernel = [](void* kernel) { delete static_cast<Operator*>(kernel); };
        made.get_input_characteristic = [](const CustomOp*, size_t index) {
            return index >= Operator::kOptionalFrom ? kOptional : kRequired;
        };
        made.get_output_characteristic = [](const CustomOp*, size_t) { return kRequired; };
        made.get_input_memory = [](const CustomOp*, size_t) { return 0; };
        made.get_variadic_input_min = [](const CustomOp*) { return 0; };
        made.get_variadic_input_homogeneity = [](const CustomOp*) { return 1; };
        made.get_variadic_output_min = [](const CustomOp*) { return 0; };
        made.get_variadic_output_homogeneity = [](const CustomOp*) { return 1; };
        made.create_kernel_with_status = [](const CustomOp*, const Api* api, const KernelInfo* info, void** kernel) {
            return guarded(api, [&] { *kernel = new Operator(Attributes{api, info}); });
        };
        made.compute_with_status = [](void* kernel, KernelContext* context) {
            return guarded(g_api, [&] { static_cast<const Operator*>(kernel)->compute(Call{g_api, context}); });
        };
        made.get_start_version = [](const CustomOp*) { return 1; };
        made.get_end_version = [](const CustomOp*) { return 1; };
        return made;
    }();
    return &op;
}

void register_operators(SessionOptions* options) {
    static Domain* const domain = [] {
        Domain* made = nullptr;
        check<CreateDomain>(g_api, "regard", &made);
        for (const CustomOp* op : {definition<Neighborhood>(), definition<Window>(), definition<TalkingHeads>(),
                                   definition<Additive>(), definition<EfficientAdditive>(), definition<Separable>()}) {
            check<AddToDomain>(g_api, made, op);
        }
        return made;
    }();
    check<AddDomain>(g_api, options, domain);
    Library::get();  // an error now, not in the first call
}

}  // namespace regard::onnxruntime

using namespace regard::onnxruntime;

// What ONNX Runtime calls when it loads the library.
REGARD_EXPORT Status* RegisterCustomOps(SessionOptions* options, const ApiBase* base) {
    g_api = base->get_api(kApiVersion);
    if (g_api) return guarded(g_api, [&] { register_operators(options); });
    const Api* oldest = base->get_api(1);  // only its first functions exist
    const std::string message = std::string("regard: its operators need onnxruntime 1.17 or newer, and this is ") +
                                base->get_version() + "; upgrade onnxruntime";
    return call<CreateStatus>(oldest, kInvalidArgument, message.c_str());
}
