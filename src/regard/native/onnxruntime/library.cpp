// An ONNX Runtime library of custom operators with regard's kernels, float32 on the CPU:
// `SessionOptions.register_custom_ops_library`.
#include <map>
#include <mutex>

#include "operators.h"

namespace regard::onnxruntime {

// A node's operator, with the functions of its runtime: a process may have several runtimes.
template <typename Operator>
struct Node {
    const Api* api;
    Operator op;

    void compute(KernelContext* context) const {
        const Call call{api, context};
        try {
            op.compute(call);
        } catch (const std::invalid_argument& error) {
            throw std::invalid_argument(error.what() + ("; the inputs are " + call.shapes()));
        }
    }
};

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
        made.destroy_kernel = [](void* kernel) { delete static_cast<Node<Operator>*>(kernel); };
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
            return guarded(api, [&] { *kernel = new Node<Operator>{api, Operator(Attributes{api, info})}; });
        };
        made.compute_with_status = [](void* kernel, KernelContext* context) {
            const auto& node = *static_cast<const Node<Operator>*>(kernel);
            return guarded(node.api, [&] { node.compute(context); });
        };
        made.get_start_version = [](const CustomOp*) { return 1; };
        made.get_end_version = [](const CustomOp*) { return 1; };
        return made;
    }();
    return &op;
}

// Returns the operators as a domain of a runtime. It is never released, since any session may use it.
Domain* domain_of(const Api* api) {
    static std::mutex mutex;
    static std::map<const Api*, Domain*> domains;
    const std::lock_guard lock(mutex);
    Domain*& domain = domains[api];
    if (domain) return domain;
    Domain* made = nullptr;
    check<CreateDomain>(api, "regard", &made);
    for (const CustomOp* op : {definition<Neighborhood>(), definition<Window>(), definition<TalkingHeads>(),
                               definition<Additive>(), definition<EfficientAdditive>(), definition<Separable>()}) {
        check<AddToDomain>(api, made, op);
    }
    return domain = made;
}

}  // namespace regard::onnxruntime

using namespace regard::onnxruntime;

// What ONNX Runtime calls when it loads the library.
REGARD_EXPORT Status* RegisterCustomOps(SessionOptions* options, const ApiBase* base) {
    const Api* const api = base->get_api(kApiVersion);
    if (api) {
        return guarded(api, [&] {
            Library::get();  // an error now, not in the first call
            check<AddDomain>(api, options, domain_of(api));
        });
    }
    const Api* const oldest = base->get_api(1);  // only its first functions exist
    return guarded(oldest, [&] {
        throw std::runtime_error(std::string("regard: its operators need onnxruntime 1.17 or newer, and this is ") +
                                 base->get_version() + "; upgrade onnxruntime");
    });
}
