// What a caller hands over, and matrix products for few rows: each output is summed by one thread, in one order.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>

extern "C" {

// A linear layer. 64 outputs are a panel: [panels][steps][64][4 bytes], where a step is two bfloat16 or four int8 inputs.
struct Product {
  const char *weight;
  const float *scale;    // [outputs], null in bfloat16
  const int32_t *shift;  // [outputs] -128 times the sum of its weights: activations are shifted to be unsigned
  const float *bias;     // [outputs] or null
  int64_t inputs, outputs;
};

struct Layer {
  const float *attention_norm;  // [E]
  Product qkv;
  const float *query_key_norm;  // [G*KV + KV, D] or null
  Product output;
  const float *mlp_norm;  // [E]
  Product gate_up, down;
};

struct Sizes {
  int64_t hidden, heads, kv_heads, dim, feed_forward, window;  // window 0: none
  float eps;
};

// Rows and where their sessions' keys lie.
struct Rows {
  int64_t count;
  const int64_t *positions;  // [R], -1: only fills up
  const int64_t *starts;     // [R] of the session's pages in `pages`
  const int64_t *pages;
  const float *turns;   // [R, D/2, 2]
  int64_t arena_pages;  // of each key head
};
}

namespace {

constexpr int64_t kPanel = 64, kVectors = 4, kLanes = 16, kPageTokens = 64, kAhead = 4096;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

int64_t rounded(int64_t size, int64_t step) { return (size + step - 1) / step * step; }

__mmask16 lanes(int64_t left) { return left >= kLanes ? 0xFFFF : left <= 0 ? 0 : (1u << left) - 1; }

__m512 widened(__m256i halves) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16)); }

// exp(x) within 2 ulp (the polynomial of Cephes).
__m512 exponential(__m512 x) {
  x = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(88.3f)), _mm512_set1_ps(-87.3f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  x = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  x = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), x);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  for (float factor : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = _mm512_fmadd_ps(p, x, _mm512_set1_ps(factor));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(x, x), _mm512_add_ps(x, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

// Their two instructions stand as such: gcc copies the sums of the second to and fro otherwise, a third of its speed.

struct Bfloat16 {
  using Sums = __m512;
  static Sums start(const Product &, int64_t) { return _mm512_setzero_ps(); }
  static void add(Sums &sums, __m512i rows, __m512i weight) { asm("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(rows), "v"(weight)); }
  static __m512 result(const Product &, int64_t, __mmask16, Sums sums, float) { return sums; }
};

struct Int8 {
  using Sums = __m512i;
  static Sums start(const Product &product, int64_t column) {
    return _mm512_maskz_loadu_epi32(lanes(product.outputs - column), product.shift + column);
  }
  static void add(Sums &sums, __m512i rows, __m512i weight) { asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(rows), "v"(weight)); }
  static __m512 result(const Product &product, int64_t column, __mmask16 mask, Sums sums, float scale) {
    const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_maskz_loadu_ps(mask, product.scale + column));
    return _mm512_mul_ps(scaled, _mm512_set1_ps(scale));
  }
};

int64_t steps_of(const Product &product) { return rounded(product.inputs, product.scale ? 4 : 2) / (product.scale ? 4 : 2); }
int64_t stride_of(const Product &product) { return rounded(4 * steps_of(product), 64); }

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
      __m512 result = Kind::result(product, column, mask, sums[m][j], scales[m]);
      if (product.bias) result = _mm512_add_ps(result, _mm512_maskz_loadu_ps(mask, product.bias + column));
      float *to = out + m * product.outputs + column;
      if (add) result = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), result);
      _mm512_mask_storeu_ps(to, mask, result);
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

// [R, inputs] as bytes of stride_of(product), and their scales -> [R, outputs]. Shared among the threads of a parallel region.
void multiply(const Product &product, int64_t count, const char *rows, const float *scales, float *out, bool add) {
  const int64_t panels = rounded(product.outputs, kPanel) / kPanel;
#pragma omp for schedule(dynamic)
  for (int64_t index = 0; index < panels; ++index) {
    if (product.scale) panel_of_all<Int8>(product, index, count, rows, scales, out, add);
    else panel_of_all<Bfloat16>(product, index, count, rows, scales, out, add);
  }
}

// A row as the product takes it: bfloat16, or eight bits with a scale.
void narrow(const Product &product, const float *row, char *bytes, float *scale) {
  const int64_t inputs = product.inputs, stride = stride_of(product);
  if (!product.scale) {
    for (int64_t at = 0; at < stride / 2; at += kLanes) {
      const __m512 some = _mm512_maskz_loadu_ps(lanes(inputs - at), row + at);
      _mm256_store_si256((__m256i *)(bytes + 2 * at), (__m256i)_mm512_cvtneps_pbh(some));
    }
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
