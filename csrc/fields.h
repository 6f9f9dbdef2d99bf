// The fields of a layer by the names that they have in the released files, and their shapes.
#pragma once

#include <map>
#include <string>

#include "layer.h"

namespace dsv4 {

// Each throws std::invalid_argument for a name that no field has.
int64_t& integer_of(Layer&, const std::string& name);
float& number_of(Layer&, const std::string& name);
const float*& vector_of(Layer&, const std::string& name);
Matrix& matrix_of(Layer&, const std::string& name);

// Derived fields, once everything is set. Throws std::invalid_argument for what is missing, or has
// another size than the layer's integers say; `sizes` are those of the vectors, in floats.
void complete(Layer&, const std::map<std::string, int64_t>& sizes);
void require_matrix(const std::string& name, const Matrix&, int64_t rows, int64_t columns);
// Whether products with float32 operands are known: not for FP8 and FP4. Throws as the others.
void require_floats(const std::string& name, const Matrix&);

}  // namespace dsv4
