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

void narrow_to_blocks(const float *row, int64_t inputs, RowBlock *blocks) {
  for (int64_t at = 0; at < inputs; at += kBlock, ++blocks) {
    const __m512 first = _mm512_maskz_loadu_ps(lanes(inputs - at), row + at);
    const __m512 second = _mm512_maskz_loadu_ps(lanes(inputs - at - kLanes), row + at + kLanes);
    const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(first), _mm512_abs_ps(second)));
    const float scale = std::max(most, 1e-30f) * (1.0f / 127.0f);
    const __m512 factor = _mm512_set1_ps(1.0f / scale);
    const __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(first, factor));
    const __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(second, factor));
    const int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
    _mm_storeu_si128((__m128i *)blocks->numbers, _mm512_cvtepi32_epi8(low));
    _mm_storeu_si128((__m128i *)(blocks->numbers + kLanes), _mm512_cvtepi32_epi8(high));
    blocks->scale = scale, blocks->total = scale * (float)sum, blocks->start = -128 * sum, blocks->unused = 0;
  }
}

__m512 sixteen_halves(const char *halves) { return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)halves)); }

// M rows, `stride` bytes apart, by one panel.
template <int Bits, int M>
void block_panel(const Product &product, int64_t index, const char *rows, int64_t stride, float *out, bool add) {
  constexpr int64_t kSteps = Bits, kScales = (Bits == 4 ? 2 : 1) * kPanel * 2, kBytes = kScales + kSteps * kPanel * 4;
  const int64_t blocks = blocks_of(product);
  const char *weight = product.weight + index * blocks * kBytes;
  const __m512i half = _mm512_set1_epi8(15);
  __m512 sums[M][kVectors];
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j)
#pragma GCC unroll 3
    for (int m = 0; m < M; ++m) sums[m][j] = _mm512_setzero_ps();
  for (int64_t block = 0; block < blocks; ++block, weight += kBytes) {
    const RowBlock *row[M];
    __m512i dots[M][kVectors];
#pragma GCC unroll 3
    for (int m = 0; m < M; ++m) {
      row[m] = reinterpret_cast<const RowBlock *>(rows + m * stride) + block;
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) dots[m][j] = _mm512_set1_epi32(Bits == 8 ? row[m]->start : 0);
    }
    for (int64_t at = 0; at < kScales; at += 64) _mm_prefetch(weight + kAhead + at, _MM_HINT_T0);
#pragma GCC unroll 8
    for (int step = 0; step < kSteps; ++step) {
      __m512i some[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        const char *from = weight + kScales + (step * kVectors + j) * 64;
        some[j] = _mm512_load_si512(from);
        _mm_prefetch(from + kAhead, _MM_HINT_T0);
      }
#pragma GCC unroll 2
      for (int part = 0; part < 8 / Bits; ++part) {
        __m512i numbers[kVectors];
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j)
          numbers[j] = Bits == 8 ? some[j] : _mm512_and_si512(part ? _mm512_srli_epi16(some[j], 4) : some[j], half);
#pragma GCC unroll 3
        for (int m = 0; m < M; ++m) {
          int32_t four;
          std::memcpy(&four, row[m]->numbers + part * 16 + 4 * step, 4);
          const __m512i same = _mm512_set1_epi32(four);
#pragma GCC unroll 4
          for (int j = 0; j < kVectors; ++j)
            asm("vpdpbusd %2, %1, %0" : "+v"(dots[m][j]) : "v"(numbers[j]), "v"(same));
        }
      }
    }
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      const __m512 scale = sixteen_halves(weight + j * kLanes * 2);
      const __m512 smallest = Bits == 4 ? sixteen_halves(weight + (kPanel + j * kLanes) * 2) : _mm512_setzero_ps();
#pragma GCC unroll 3
      for (int m = 0; m < M; ++m) {
        const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(row[m]->scale));
        sums[m][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[m][j]), both, sums[m][j]);
        if (Bits == 4) sums[m][j] = _mm512_fmadd_ps(smallest, _mm512_set1_ps(row[m]->total), sums[m][j]);
      }
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j)
#pragma GCC unroll 3
    for (int m = 0; m < M; ++m)
      store(product, index * kPanel + j * kLanes, sums[m][j], out + m * product.outputs, add);
}

template <int Bits>
void block_panel_of_all(const Product &product, int64_t index, int64_t count, const char *rows, int64_t stride, float *out,
                        bool add) {
  for (int64_t row = 0; row < count;) {
    const char *from = rows + row * stride;
    float *to = out + row * product.outputs;
#define BLOCK(M) block_panel<Bits, M>(product, index, from, stride, to, add), row += M
    switch (count - row) {
      case 1: BLOCK(1); break;
      case 2: case 4: BLOCK(2); break;
      default: BLOCK(3);
    }
#undef BLOCK
  }
}

}  // namespace
