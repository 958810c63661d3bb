// Products in AMX tiles: up to sixteen rows by sixteen outputs in one instruction.
//
// A row's sums are its own: an instruction adds row by row, in the same order for each number of rows. In bfloat16 it is another order
// than that of AVX-512; in eight bits sums are exact.

#pragma once

#include "passes.h"

#include <sys/syscall.h>
#include <unistd.h>

namespace {

constexpr int64_t kTileRows = 16, kTileBytes = 1024;

// Linux lets a process use tiles once it has asked: a thread's state grows by 8 KB.
bool may_use_tiles() {
  constexpr long kAskForPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kAskForPermission, kTileData) == 0;
}

// Tiles 0 to 3 hold the sums of a panel's sixteens of outputs, 4 the rows (none where there are 0), 5 to 7 weights. One thread's, as
// long as this lives.
struct Tiles {
  explicit Tiles(int64_t rows) {
    if (rows == 0) return;
    struct alignas(64) {
      uint8_t palette = 1, begin = 0, reserved[14]{};
      uint16_t bytes[16]{};
      uint8_t rows[16]{};
    } shapes;
    for (int tile = 0; tile < 8; ++tile) shapes.bytes[tile] = 64, shapes.rows[tile] = tile < 5 ? rows : kTileRows;
    asm volatile("" : : "r"(&shapes) : "memory");  // gcc believes that the first bytes only are read
    _tile_loadconfig(&shapes);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles &) = delete;
  Tiles &operator=(const Tiles &) = delete;
};

// As many bytes as a tile has on their way into the cache. All four tiles' at once take up to 1.4 times as long.
void fetch_tile(const char *weight) {
#pragma GCC unroll 16
  for (int64_t at = 0; at < kTileBytes; at += 64) _mm_prefetch(weight + at, _MM_HINT_T0);
}

#define ADD_TILES(sums, weights) \
  if constexpr (Kind::kBytes) { _tile_dpbusd(sums, 4, weights); } else { _tile_dpbf16ps(sums, 4, weights); }

// The rows of a tile by one panel; results of rows before `fresh` were stored already.
template <class Kind>
void tile_panel(const Product &product, int64_t index, int64_t count, int64_t fresh, const char *rows, const float *scales,
                float *out, bool add) {
  const int64_t steps = steps_of(product), stride = stride_of(product), first = index * kPanel;
  const char *weight = product.weight + index * steps * kPanel * 4;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < steps; step += kTileSteps, rows += 64, weight += 4 * kTileBytes) {
    _tile_loadd(4, rows, stride);
    fetch_tile(weight + kAhead);
    _tile_loadd(5, weight, kPanel * 4);
    ADD_TILES(0, 5)
    fetch_tile(weight + kAhead + kTileBytes);
    _tile_loadd(6, weight + 64, kPanel * 4);
    ADD_TILES(1, 6)
    fetch_tile(weight + kAhead + 2 * kTileBytes);
    _tile_loadd(7, weight + 128, kPanel * 4);
    ADD_TILES(2, 7)
    fetch_tile(weight + kAhead + 3 * kTileBytes);
    _tile_loadd(5, weight + 192, kPanel * 4);
    ADD_TILES(3, 5)
  }
  alignas(64) char sums[kTileRows][kPanel * 4];
  _tile_stored(0, sums[0], kPanel * 4);
  _tile_stored(1, sums[0] + 64, kPanel * 4);
  _tile_stored(2, sums[0] + 128, kPanel * 4);
  _tile_stored(3, sums[0] + 192, kPanel * 4);
  for (int64_t j = 0; j < kVectors; ++j) {
    const int64_t column = first + j * kLanes;
    const auto start = Kind::start(product, column);
    for (int64_t row = fresh; row < count; ++row) {
      const Floats result = Kind::result(product, column, Kind::added(start, sums[row] + 64 * j), scales[row]);
      store_result(product, column, result, out + row * product.outputs, add);
    }
  }
}

#undef ADD_TILES

// As many rows in each tile as there are in all, divided evenly; the last one begins among the rows of the one before.
int64_t rows_of_a_tile(int64_t count) {
  const int64_t tiles = (count + kTileRows - 1) / kTileRows;
  return (count + tiles - 1) / tiles;
}

// Few rows of eight bits are not worth a tile, and AVX-512 has the same bits.
bool in_tiles(const Product &product, int64_t count) {
  return product.kind == kBfloat16 ? count > 0 : product.kind == kInt8 && count > 8;
}

void tile_panel_of_all(const Product &product, int64_t index, int64_t count, const char *rows, const float *scales, float *out,
                       bool add) {
  const auto panel = product.kind == kInt8 ? tile_panel<Int8> : tile_panel<Bfloat16>;
  const int64_t size = rows_of_a_tile(count);
  for (int64_t done = 0; done < count; done += size) {
    const int64_t from = std::min(done, count - size);
    panel(product, index, size, done - from, rows + from * stride_of(product), scales + from, out + from * product.outputs, add);
  }
}

}  // namespace
