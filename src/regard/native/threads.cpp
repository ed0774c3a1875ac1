// The pool of threads that kernels use, one per calling thread.
#include "threads.h"

#include "tensors.h"

namespace regard {

Runner& current_runner() {
    static thread_local Runner runner{nullptr, nullptr};
    return runner;
}

}  // namespace regard

// Makes the kernels that this thread calls use a runner; one without a function restores OpenMP.
REGARD_EXPORT void regard_set_runner(regard::Runner runner) { regard::current_runner() = runner; }
