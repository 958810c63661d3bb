// Products of the cloud's passes, in bfloat16 and in eight bits: AVX-512 with VNNI and bfloat16 only. In tiles see tiles.h.

#pragma once

#include "blocks.h"

namespace {

struct Bfloat16 {
  using Sums = Floats;
  static constexpr bool kBytes = false;
  static Sums start(const Product &, int64_t) { return Floats{}; }
  static void add(Sums &sums, __m512i rows, __m512i weight) { add_pairs(sums, (Ints)rows, (Ints)weight); }
  static Sums added(const Sums &sums, const char *more) { return sums + whole<Floats>(more); }
  static __m512 result(const Product &, int64_t, __mmask16, Sums sums, float) { return sums; }
};

struct Int8 {
  using Sums = Dots<8>;
  static constexpr bool kBytes = true;
  static Sums start(const Product &product, int64_t column) {
    return {load_words(product.shift + column, product.outputs - column)};
  }
  // Here it is the rows that are unsigned.
  static void add(Sums &sums, __m512i rows, __m512i weight) { sums.add((Ints)rows, (Ints)weight); }
  static Sums added(const Sums &sums, const char *more) { return {sums.result() + whole<Ints>(more)}; }
  static __m512 result(const Product &product, int64_t column, __mmask16 mask, Sums sums, float scale) {
    const __m512 scaled = _mm512_mul_ps(as_floats(sums.result()), _mm512_maskz_loadu_ps(mask, product.scale + column));
    return _mm512_mul_ps(scaled, _mm512_set1_ps(scale));
  }
};

// M rows by one panel. `add`: to what is there.
template <class Kind, int M>
void panel(const Product &product, int64_t index, const char *rows, const float *scales, float *out, bool add) {
  const int64_t steps = steps_of(product), stride = stride_of(product), first = index * kPanel;
  const char *weight = product.weight + index * steps * kPanel * 4;
  typename Kind::Sums sums[M][kVectors];
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j)
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) sums[m][j] = Kind::start(product, first + j * kLanes);
  for (int64_t step = 0; step < steps; ++step, weight += kPanel * 4) {
    __m512i some[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      some[j] = _mm512_load_si512(weight + j * 64);
      _mm_prefetch(weight + kAhead + j * 64, _MM_HINT_T0);
    }
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) {
      int32_t four;
      std::memcpy(&four, rows + m * stride + 4 * step, 4);
      const __m512i same = _mm512_set1_epi32(four);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) Kind::add(sums[m][j], same, some[j]);
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) {
    const int64_t column = first + j * kLanes;
    const __mmask16 mask = lanes(product.outputs - column);
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) {
      const __m512 result = Kind::result(product, column, mask, sums[m][j], scales[m]);
      store_result(product, column, result, out + m * product.outputs, add);
    }
  }
}

template <class Kind>
void panel_of_all(const Product &product, int64_t index, int64_t count, const char *rows, const float *scales, float *out,
                  bool add) {
  for (int64_t row = 0; row < count;) {
    const int64_t left = count - row;
    const char *from = rows + row * stride_of(product);
    float *to = out + row * product.outputs;
#define BLOCK(M) panel<Kind, M>(product, index, from, scales + row, to, add), row += M
    switch (left) {
      case 1: BLOCK(1); break;
      case 2: BLOCK(2); break;
      case 3: BLOCK(3); break;
      case 4: BLOCK(4); break;
      case 5: BLOCK(5); break;
      case 7: case 8: BLOCK(4); break;
      default: BLOCK(6);
    }
#undef BLOCK
  }
}

// A row as the product takes it: bfloat16, or eight bits with a scale.
void narrow_whole(const Product &product, const float *row, char *bytes, float *scale) {
  const int64_t inputs = product.inputs, stride = stride_of(product);
  if (product.kind == kBfloat16) {
    for (int64_t at = 0; at < stride / 2; at += kLanes)
      store_bfloat16(reinterpret_cast<uint16_t *>(bytes) + at, load(row + at, inputs - at), kLanes);
    return;
  }
  __m512 most = _mm512_set1_ps(1e-30f);
  for (int64_t at = 0; at < inputs; at += kLanes)
    most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_maskz_loadu_ps(lanes(inputs - at), row + at)));
  *scale = _mm512_reduce_max_ps(most) * (1.0f / 127.0f);
  const __m512 divisor = _mm512_set1_ps(*scale);
  for (int64_t at = 0; at < stride; at += kLanes) {
    const __m512 some = _mm512_div_ps(_mm512_maskz_loadu_ps(lanes(inputs - at), row + at), divisor);
    const __m512i number = _mm512_add_epi32(_mm512_cvtps_epi32(some), _mm512_set1_epi32(128));
    _mm_store_si128((__m128i *)(bytes + at), _mm512_cvtepi32_epi8(number));
  }
}

}  // namespace
