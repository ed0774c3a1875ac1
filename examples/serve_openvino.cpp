// Names the class of an image with OpenVINO: `./serve_openvino model.xml photo.ppm`.
//
// The file is from `regard.export(model, "model.xml", preprocess=True)`: it takes pixels and contains the class names.
// The image is a binary PPM of the model's size, such as `convert photo.jpg -resize 224x224! photo.ppm` makes.
#include <algorithm>
#include <fstream>
#include <iostream>
#include <openvino/openvino.hpp>
#include <regex>
#include <stdexcept>

// The name of a class, from the metadata, which are JSON: "classes": ["cat", "dog"]. Escapes stay as they are.
std::string class_name(const std::string& metadata, size_t index) {
    const std::string names = metadata.substr(metadata.find("\"classes\": ["));
    const std::regex text("\"((?:[^\"\\\\]|\\\\.)*)\"");
    std::sregex_iterator found(names.begin(), names.end(), text);
    std::advance(found, index + 1);  // the first one is the word "classes"
    return (*found)[1];
}

int main(int, char** arguments) try {
    ov::Core core;
    const auto model = core.read_model(arguments[1]);
    auto request = core.compile_model(model, "CPU").create_infer_request();

    ov::Tensor pixels = request.get_input_tensor();  // [1, H, W, 3], uint8
    std::ifstream image(arguments[2], std::ios::binary);
    std::string format;
    size_t width = 0, height = 0, largest = 0;
    image >> format >> width >> height >> largest;
    if (format != "P6" || largest != 255 || pixels.get_shape() != ov::Shape{1, height, width, 3}) {
        throw std::runtime_error("expected a binary PPM of the model's size: " + pixels.get_shape().to_string());
    }
    image.get();  // one space after the header
    image.read(reinterpret_cast<char*>(pixels.data<uint8_t>()), std::streamsize(pixels.get_byte_size()));

    request.infer();
    const ov::Tensor output = request.get_output_tensor();
    const float* const probabilities = output.data<const float>();
    const size_t best = std::max_element(probabilities, probabilities + output.get_size()) - probabilities;
    std::cout << class_name(model->get_rt_info<std::string>("regard"), best) << ' ' << probabilities[best] << '\n';
} catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
}
