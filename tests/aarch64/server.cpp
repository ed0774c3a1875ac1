// Calls kernels of a library for a process of another architecture: requests come on standard input, answers go to
// standard output. Numbers are 64-bit; `plugin.py` has the other side.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

struct Operand {  // as in tensors.h
    void* data;
    int64_t strides[6];
};

void read(void* to, size_t bytes) {
    if (bytes && std::fread(to, bytes, 1, stdin) != 1) std::exit(0);  // the other side has ended
}

int64_t read_number() {
    int64_t number;
    read(&number, sizeof number);
    return number;
}

void write(const void* from, size_t bytes) {
    if (bytes) std::fwrite(from, bytes, 1, stdout);
}

struct Request {
    std::string function;
    std::vector<std::vector<char>> memory;  // the storages of all tensors, then structures
    std::vector<std::vector<Operand>> operands;
    std::vector<int64_t> arguments;

    // Reads a place in a storage; -1 is a null pointer.
    void* read_pointer() {
        const int64_t storage = read_number(), offset = read_number();
        return storage < 0 ? nullptr : memory[size_t(storage)].data() + offset;
    }
    void read_argument() {
        const int64_t kind = read_number();
        if (kind == 0) arguments.push_back(read_number());
        if (kind == 1) arguments.push_back(int64_t(read_pointer()));
        if (kind == 2) {
            operands.emplace_back(size_t(read_number()));
            for (Operand& operand : operands.back()) {
                operand.data = read_pointer();
                read(operand.strides, sizeof operand.strides);
            }
            arguments.push_back(int64_t(operands.back().data()));
        }
    }
    void read_all() {
        function.resize(size_t(read_number()));
        read(&function[0], function.size());
        memory.resize(size_t(read_number()));
        for (std::vector<char>& one : memory) {
            one.resize(size_t(read_number()));
            read(one.data(), one.size());
        }
        operands.reserve(16);
        for (int64_t left = read_number(); left > 0; --left) read_argument();
        arguments.resize(16);
    }
};

}  // namespace

int main(int, char** arguments) {
    void* const library = dlopen(arguments[1], RTLD_NOW);
    if (!library) {
        std::fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    for (;;) {
        Request request;
        request.read_all();
        using Function = int (*)(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                                 int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);
        const auto function = reinterpret_cast<Function>(dlsym(library, request.function.c_str()));
        if (!function) {
            std::fprintf(stderr, "%s\n", dlerror());
            return 1;
        }
        const std::vector<int64_t>& a = request.arguments;
        const int64_t code = function(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12],
                                      a[13], a[14], a[15]);
        write(&code, sizeof code);
        for (const std::vector<char>& one : request.memory) write(one.data(), one.size());
        std::fflush(stdout);
    }
}
