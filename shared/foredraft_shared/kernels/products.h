// Matrix products for few rows: each output is summed by one thread, in one order.

#pragma once

#include "blocks.h"
#include "passes.h"
#ifdef FOREDRAFT_AMX
#include "tiles.h"
#endif

namespace {

// [R, inputs] as bytes of stride_of(product), and their scales -> [R, outputs]. Shared among the threads of a parallel region.
void multiply(const Product &product, int64_t count, const char *rows, const float *scales, float *out, bool add) {
  const int64_t panels = rounded(product.outputs, kPanel) / kPanel;
#ifdef FOREDRAFT_AMX
  const bool tiled = in_tiles(product, count);
  const Tiles tiles(tiled ? rows_of_a_tile(count) : 0);
#endif
#pragma omp for schedule(dynamic)
  for (int64_t index = 0; index < panels; ++index) {
#ifdef FOREDRAFT_AMX
    if (tiled) {
      tile_panel_of_all(product, index, count, rows, scales, out, add);
      continue;
    }
#endif
    switch (product.kind) {
      case kBfloat16: panel_of_all<Bfloat16>(product, index, count, rows, scales, out, add); break;
      case kInt8: panel_of_all<Int8>(product, index, count, rows, scales, out, add); break;
      case kBlocks8: block_panel_of_all<8>(product, index, count, rows, stride_of(product), out, add); break;
      case kBlocks4: block_panel_of_all<4>(product, index, count, rows, stride_of(product), out, add);
    }
  }
}

// A row as the product takes it: bfloat16, eight bits with a scale, or blocks.
void narrow(const Product &product, const float *row, char *bytes, float *scale) {
  if (product.kind < kBlocks8) return narrow_whole(product, row, bytes, scale);
  narrow_to_blocks(row, product.inputs, reinterpret_cast<RowBlock *>(bytes));
}

}  // namespace
