// Arrays that Python hands over, and what is asked of them before anything is read.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace dsv4 {

namespace nb = nanobind;

using Bytes = nb::ndarray<uint8_t, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Doubles = nb::ndarray<double, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<int64_t, nb::c_contig, nb::device::cpu>;

// An array as it is: a converted copy would be read once, and written to in vain.
inline auto strict(const char* name) { return nb::arg(name).noconvert(); }

using Shape = std::vector<int64_t>;  // −1: any size

inline std::string text(const Shape& shape) {
  std::string found;
  for (const int64_t size : shape) {
    found += (found.empty() ? "[" : ", ") + (size < 0 ? "*" : std::to_string(size));
  }
  return found.empty() ? "[]" : found + "]";
}

template <class Array>
Shape shape_of(const Array& array) {
  Shape found;
  for (size_t i = 0; i < array.ndim(); ++i) found.push_back(static_cast<int64_t>(array.shape(i)));
  return found;
}

inline void require_shape(const std::string& what, const Shape& found, const Shape& wanted) {
  bool same = found.size() == wanted.size();
  for (size_t i = 0; same && i < found.size(); ++i) same = wanted[i] < 0 || found[i] == wanted[i];
  if (!same) {
    throw std::invalid_argument(what + " has shape " + text(found) + ", must be " + text(wanted));
  }
}

// A tensor of any dtype and device, imported once and handed to many calls.
struct Tensor {
  nb::ndarray<> array;

  static constexpr nb::dlpack::dtype BF16{static_cast<uint8_t>(nb::dlpack::dtype_code::Bfloat), 16,
                                          1};

  // Of one axis of `axes`; −1 where it has another number of them.
  int64_t size(size_t axis, size_t axes) const {
    return array.ndim() == axes ? static_cast<int64_t>(array.shape(axis)) : -1;
  }

  // Its data, if it is as it must be; axis by axis, so that a call costs no memory.
  void* checked(const char* what, nb::dlpack::dtype dtype, std::initializer_list<int64_t> shape) const {
    bool same = array.dtype() == dtype && array.ndim() == shape.size() &&
                array.device_type() == nb::device::cpu::value;
    int64_t stride = 1;
    for (size_t i = shape.size(); same && i-- > 0;) {
      const int64_t size = shape.begin()[i];
      same = static_cast<int64_t>(array.shape(i)) == size &&
             (size == 1 || array.stride(i) == stride || array.size() == 0);
      stride *= size;
    }
    if (!same) refuse(what, dtype, shape);
    return array.data();
  }

 private:
  static std::string name(nb::dlpack::dtype dtype) {
    static const char* const kinds[] = {"int", "uint", "float", "?", "bfloat"};
    return (dtype.code < 5 ? kinds[dtype.code] : "?") + std::to_string(dtype.bits);
  }
  [[noreturn]] void refuse(const char* what, nb::dlpack::dtype dtype, const Shape& shape) const {
    const bool on_cpu = array.device_type() == nb::device::cpu::value;
    throw std::invalid_argument(std::string(what) + " are " + name(array.dtype()) + " " +
                                text(shape_of(array)) + (on_cpu ? "" : " on another device") +
                                ", must be contiguous " + name(dtype) + " " + text(shape) +
                                " on the CPU");
  }
};

}  // namespace dsv4
