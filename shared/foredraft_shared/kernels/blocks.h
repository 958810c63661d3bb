// Products with weights in blocks of 32 inputs, as GGUF's Q4_0, Q4_1 and Q8_0 have them; rows are rounded to eight bits, block by block.
//
// A panel is, for each block: 64 scales in float16, for 4 bits 64 smallest numbers in float16, and its steps of [64][4 bytes]. Of 8
// bits there are eight, of four inputs, shifted to be unsigned. Of 4 bits there are four; byte i of step s has the inputs 4 s + i
// (its low half) and 16 + 4 s + i. A weight is number * scale + smallest; in 8 bits (number - 128) * scale.

#pragma once

#include "common.h"

namespace {

constexpr int64_t kBlock = 32;

struct RowBlock {
  int8_t numbers[kBlock];
  float scale, total;  // `total`: of the numbers, scaled
  int32_t start;       // -128 times their sum
  int32_t unused;
};

int64_t blocks_of(const Product &product) { return rounded(product.inputs, kBlock) / kBlock; }
int64_t steps_of(const Product &product) {
  const int64_t inputs = product.kind == kInt8 ? 4 : 2;
  return rounded(product.inputs, kTileSteps * inputs) / inputs;
}
// Bytes of a row as the product takes it.
int64_t stride_of(const Product &product) {
  return product.kind >= kBlocks8 ? rounded(blocks_of(product) * sizeof(RowBlock), 64) : 4 * steps_of(product);
}

void narrow_to_blocks(const float *row, int64_t inputs, RowBlock *blocks) {
  for (int64_t at = 0; at < inputs; at += kBlock, ++blocks) {
    Floats some[kBlock / kLanes], most;
    for (int i = 0; i < kBlock / kLanes; ++i) {
      some[i] = load(row + at + i * kLanes, inputs - at - i * kLanes);
      most = i ? largest(most, absolute(some[i])) : absolute(some[i]);
    }
    const float scale = std::max(largest_across(most), 1e-30f) * (1.0f / 127.0f), factor = 1.0f / scale;
    Ints sums{};
    for (int i = 0; i < kBlock / kLanes; ++i) {
      const Ints numbers = nearest(some[i] * factor);
      const Quarters narrowed = __builtin_convertvector(numbers, Quarters);
      std::memcpy(blocks->numbers + i * kLanes, &narrowed, sizeof narrowed);
      sums += numbers;
    }
    const int32_t sum = sum_across(sums);
    blocks->scale = scale, blocks->total = scale * (float)sum, blocks->start = -128 * sum, blocks->unused = 0;
  }
}

// M rows, `stride` bytes apart, by one panel.
template <int Bits, int M>
void block_panel(const Product &product, int64_t index, const char *rows, int64_t stride, float *out, bool add) {
  constexpr int64_t kSteps = Bits, kScales = (Bits == 4 ? 2 : 1) * kPanel * 2, kBytes = kScales + kSteps * kPanel * 4;
  const int64_t blocks = blocks_of(product);
  const char *weight = product.weight + index * blocks * kBytes;
  Floats sums[M][kVectors];
#pragma GCC unroll 16
  for (int j = 0; j < kVectors; ++j)
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) sums[m][j] = Floats{};
  for (int64_t block = 0; block < blocks; ++block, weight += kBytes) {
    const RowBlock *row[M];
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) row[m] = reinterpret_cast<const RowBlock *>(rows + m * stride) + block;
    for (int64_t at = 0; at < kScales; at += 64) __builtin_prefetch(weight + kAhead + at);
    for (int64_t tile = 0; tile < kVectors; tile += kTile) {
      Dots<Bits> dots[M][kTile];
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int j = 0; j < kTile; ++j) dots[m][j].begin(row[m]->start);
#pragma GCC unroll 8
      for (int step = 0; step < kSteps; ++step) {
        Ints some[kTile];
#pragma GCC unroll 4
        for (int j = 0; j < kTile; ++j) {
          const char *from = weight + kScales + (step * kPanel + (tile + j) * kLanes) * 4;
          some[j] = whole<Ints>(from);
          if (j * kLanes % 16 == 0) __builtin_prefetch(from + kAhead);
        }
#pragma GCC unroll 2
        for (int part = 0; part < 8 / Bits; ++part) {
          Ints numbers[kTile];
#pragma GCC unroll 4
          for (int j = 0; j < kTile; ++j) {
            if (Bits == 4) numbers[j] = (part ? some[j] >> 4 : some[j]) & 0x0F0F0F0F;
            else numbers[j] = Dots<Bits>::kSigned ? some[j] ^ (int32_t)0x80808080 : some[j];
          }
#pragma GCC unroll 4
          for (int m = 0; m < M; ++m) {
            int32_t four;
            std::memcpy(&four, row[m]->numbers + part * 16 + 4 * step, 4);
            const Ints same = Ints{} + four;
#pragma GCC unroll 4
            for (int j = 0; j < kTile; ++j) dots[m][j].add(numbers[j], same);
          }
        }
      }
#pragma GCC unroll 4
      for (int j = 0; j < kTile; ++j) {
        const char *scales = weight + (tile + j) * kLanes * 2;
        const Floats scale = load_float16(scales), smallest = Bits == 4 ? load_float16(scales + kPanel * 2) : Floats{};
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) {
          Floats &sum = sums[m][tile + j];
          sum = fused(as_floats(dots[m][j].result()), scale * row[m]->scale, sum);
          if (Bits == 4) sum = fused(smallest, all(row[m]->total), sum);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < kVectors; ++j)
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m)
      store_result(product, index * kPanel + j * kLanes, sums[m][j], out + m * product.outputs, add);
}

template <int Bits>
void block_panel_of_all(const Product &product, int64_t index, int64_t count, const char *rows, int64_t stride, float *out,
                        bool add) {
  for (int64_t row = 0; row < count;) {
    const int64_t left = count - row;
    const char *from = rows + row * stride;
    float *to = out + row * product.outputs;
#define BLOCK(M) block_panel<Bits, M>(product, index, from, stride, to, add), row += M
    switch (left == kMostRows + 1 ? left / 2 : left) {
      case 1: BLOCK(1); break;
      case 2: BLOCK(2); break;
      case 3: BLOCK(3); break;
      default: BLOCK(kMostRows);
    }
#undef BLOCK
  }
}

}  // namespace
