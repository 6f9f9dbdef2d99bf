// Structs that hold what Python owns: the tensors stay alive as long as their addresses are used.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "arrays.h"
#include "fields.h"
#include "residency.h"

namespace dsv4 {

struct OwnedMatrix {
  Matrix matrix;
  Bytes data;
  std::optional<Bytes> bytes;
  std::optional<Floats> floats;

  OwnedMatrix(const std::string& format, int64_t rows, int64_t columns, Bytes data,
              std::optional<Bytes> fp4_scale, std::optional<Floats> fp8_scale)
      : data(data), bytes(fp4_scale), floats(fp8_scale) {
    static const std::map<std::string, Format> formats{
        {"f32", Format::F32}, {"bf16", Format::BF16}, {"fp8", Format::FP8}, {"fp4", Format::FP4}};
    if (!formats.contains(format) || rows < 1 || columns < 1) {
      throw std::invalid_argument("no matrix " + format + " " + text({rows, columns}));
    }
    matrix.format = formats.at(format);
    matrix.rows = rows;
    matrix.columns = columns;
    matrix.data = this->data.data();
    require(data.nbytes(), rows * matrix.row_bytes(), "bytes of the weight");
    if (matrix.format == Format::FP8) {
      const int64_t down = (rows + FP8_BLOCK - 1) / FP8_BLOCK;
      const int64_t across = (columns + FP8_BLOCK - 1) / FP8_BLOCK;
      require(floats ? floats->size() : 0, down * across, "FP8 scales");
      matrix.fp8_scale = floats->data();
    }
    if (matrix.format == Format::FP4) {
      require(columns % FP4_BLOCK, 0, "columns beyond whole FP4 blocks");
      require(bytes ? bytes->size() : 0, rows * columns / FP4_BLOCK, "FP4 scales");
      matrix.fp4_scale = bytes->data();
    }
  }
  static void require(size_t found, int64_t wanted, const char* what) {
    if (static_cast<int64_t>(found) != wanted) {
      throw std::invalid_argument(std::to_string(found) + " " + what + ", must be " +
                                  std::to_string(wanted));
    }
  }
};

using Places = std::vector<std::pair<uintptr_t, int64_t>>;  // addresses and bytes

struct OwnedResidency {
  Residency value;
  std::vector<nb::object> kept;  // the files stay mapped as long as their pages may be given back

  OwnedResidency(int64_t cap, int64_t fixed, const Places& files)
      : value(cap, fixed, regions(files)) {}
  static Region region(const void* data, size_t bytes) {
    const auto first = reinterpret_cast<uintptr_t>(data);
    return {first, first + bytes};
  }
  static std::vector<Region> regions(const Places& files) {
    std::vector<Region> found;
    for (const auto& [first, bytes] : files) found.push_back({first, first + bytes});
    return found;
  }
  void add(nb::object matrix) {
    OwnedMatrix& w = nb::cast<OwnedMatrix&>(matrix);
    std::vector<Region> parts{region(w.data.data(), w.data.nbytes())};
    if (w.bytes) parts.push_back(region(w.bytes->data(), w.bytes->nbytes()));
    w.matrix.unit = value.add(parts);
    kept.push_back(std::move(matrix));
  }
};

// A struct whose fields are set by name, and what keeps their tensors alive.
template <class T>
struct Owned {
  T value;
  std::map<std::string, int64_t> sizes;  // of its vectors
  std::vector<nb::object> kept;
};

// A span with tables of its own, and what the stores must have for it.
struct OwnedSpan {
  int64_t batch, columns;
  std::vector<int64_t> starts, lengths, slots, known;
  std::vector<std::vector<int32_t>> tables;
  bool block;
  int64_t slots_end = 0, pages_end = 0;  // above all that are named
  Span value;

  OwnedSpan(int64_t columns, std::vector<int64_t> starts, std::vector<int64_t> lengths,
            std::vector<int64_t> slots, const std::vector<nb::object>& tables,
            std::vector<int64_t> known, bool block)
      : batch(static_cast<int64_t>(starts.size())), columns(columns), starts(std::move(starts)),
        lengths(std::move(lengths)), slots(std::move(slots)), known(std::move(known)),
        tables(copied(tables)), block(block),
        value(columns, this->starts, this->lengths, places(), block) {}

 private:
  // Of arrays of C ints, as Python's `array` has them.
  static std::vector<std::vector<int32_t>> copied(const std::vector<nb::object>& arrays) {
    std::vector<std::vector<int32_t>> found;
    for (const nb::object& each : arrays) {
      Py_buffer view;
      if (PyObject_GetBuffer(each.ptr(), &view, PyBUF_FORMAT) != 0) throw nb::python_error();
      const bool right = view.format != nullptr && std::string(view.format) == "i" &&
                         view.itemsize == sizeof(int32_t);
      const auto* first = static_cast<const int32_t*>(view.buf);
      if (right) found.emplace_back(first, first + view.len / view.itemsize);
      PyBuffer_Release(&view);
      if (!right) throw std::invalid_argument("a table of pages is an array of C ints");
    }
    return found;
  }

  std::vector<Place> places() {
    const size_t count = starts.size();
    bool right = columns >= 0 && lengths.size() == count && slots.size() == count &&
                 tables.size() == count && known.size() == count;
    for (size_t b = 0; right && b < count; ++b) {
      right = starts[b] >= 0 && lengths[b] >= 0 && lengths[b] <= columns && slots[b] >= 0 &&
              known[b] >= 0;
      for (const int32_t page : tables[b]) {
        right = right && page >= 0;
        pages_end = std::max<int64_t>(pages_end, page + 1);
      }
    }
    if (!right) {
      throw std::invalid_argument("a span has a start, a length, a slot, a table and known tokens per sequence");
    }
    std::vector<Place> found;
    for (size_t b = 0; b < count; ++b) {
      slots_end = std::max(slots_end, slots[b] + 1);
      found.push_back({slots[b], tables[b].data(), static_cast<int64_t>(tables[b].size()),
                       known[b]});
    }
    return found;
  }
};

// What keeps one layer's sequences: stores of its shapes.
struct OwnedState {
  LayerState value;
  const Layer* layer;
  Bytes window;
  std::optional<Bytes> entries, keys;
  std::optional<Floats> tail, index_tail;

  OwnedState(const Owned<Layer>& owner, Bytes window, std::optional<Bytes> entries,
             std::optional<Floats> tail, std::optional<Bytes> keys,
             std::optional<Floats> index_tail)
      : layer(&owner.value), window(window), entries(entries), keys(keys), tail(tail),
        index_tail(index_tail) {
    const Attention& a = layer->attention;
    const int64_t entry = entry_bytes(a.channels, a.rotary), key = key_bytes(a.index_channels);
    const Compressor &c = a.compressor, &k = a.index_compressor;
    const int64_t reach = (c.overlaps ? 2 : 1) * a.ratio;
    value.window = ring<uint8_t>("the window", std::optional(window), true, a.window, entry);
    value.entries = paged("the entries", entries, a.ratio > 0, entry);
    value.tail = ring<float>("the tail", tail, a.ratio > 0, reach, 2 * c.width());
    value.keys = paged("the indexer's keys", keys, a.index_heads > 0, key);
    value.index_tail =
        ring<float>("the indexer's tail", index_tail, a.index_heads > 0, reach, 2 * k.width());
    const bool indexed = a.index_heads > 0;
    require_same("slots", value.window.slots, a.ratio > 0, value.tail.slots);
    require_same("slots", value.window.slots, indexed, value.index_tail.slots);
    require_same("pages", value.entries.pages, indexed, value.keys.pages);
    require_same("rows a page", value.entries.page_rows, indexed, value.keys.page_rows);
  }

  void check(const Layer& asked, const OwnedSpan& span) const {
    if (layer != &asked) throw std::invalid_argument("the stores were made for another layer");
    if (span.slots_end > value.window.slots) {
      refuse("slots", value.window.slots, span.slots_end);
    }
    const int64_t ratio = asked.attention.ratio;
    if (ratio == 0) return;
    if (span.block) throw std::invalid_argument("a drafted block passes through a layer of ratio " +
                                                std::to_string(ratio) + ", must be 0");
    if (span.pages_end > value.entries.pages) refuse("pages", value.entries.pages, span.pages_end);
    for (int64_t b = 0; b < span.batch; ++b) {
      const int64_t room = static_cast<int64_t>(span.tables[b].size()) * value.entries.page_rows;
      const int64_t wanted = (span.starts[b] + span.lengths[b]) / ratio;
      if (wanted > room) refuse("entries of a sequence", room, wanted);
    }
  }

 private:
  [[noreturn]] static void refuse(const char* what, int64_t room, int64_t wanted) {
    throw std::invalid_argument("the cache has room for " + std::to_string(room) + " " + what +
                                ", the span needs " + std::to_string(wanted));
  }
  static void require_same(const char* what, int64_t one, bool wanted, int64_t other) {
    if (wanted && one != other) {
      throw std::invalid_argument("the cache's stores differ in " + std::string(what) + ": " +
                                  std::to_string(one) + " and " + std::to_string(other));
    }
  }
  template <class Array>
  static bool is_there(const char* what, const std::optional<Array>& array, bool wanted) {
    if (array.has_value() != wanted) {
      throw std::invalid_argument(std::string(what) + (wanted ? " is missing" : " is not wanted") +
                                  ": the cache belongs to another kind of layer");
    }
    return wanted;
  }
  template <class T, class Array>
  static Ring<T> ring(const char* what, const std::optional<Array>& array, bool wanted,
                      int64_t least, int64_t row) {
    if (!is_there(what, array, wanted)) return {};
    require_shape(what, shape_of(*array), {-1, -1, row});
    const Shape shape = shape_of(*array);
    if (shape[1] < least) {
      throw std::invalid_argument(std::string(what) + " keeps " + std::to_string(shape[1]) +
                                  " rows, must keep " + std::to_string(least));
    }
    return {array->data(), shape[0], shape[1], row};
  }
  static Paged paged(const char* what, const std::optional<Bytes>& array, bool wanted,
                     int64_t row) {
    if (!is_there(what, array, wanted)) return {};
    require_shape(what, shape_of(*array), {-1, -1, row});
    const Shape shape = shape_of(*array);
    if (shape[1] < 1) throw std::invalid_argument(std::string(what) + " have pages without rows");
    return {array->data(), shape[0], shape[1], row};
  }
};

// Of activations: streams, and rows between layers.
inline nb::dlpack::dtype floating(bool exact) { return exact ? Tensor::BF16 : nb::dtype<float>(); }

// Streams [b, n, hc, d] as a layer or head takes them.
inline void* streams_of(const Tensor& x, bool exact, int64_t batch, int64_t columns,
                 const HyperShape& shape) {
  return x.checked("the streams", floating(exact), {batch, columns, shape.streams, shape.d});
}

}  // namespace dsv4
