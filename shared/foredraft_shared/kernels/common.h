// What a caller hands over, and what every kernel is made of.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>

extern "C" {

enum Kind : int64_t { kBfloat16, kInt8, kBlocks8, kBlocks4 };

// A linear layer. 64 outputs are a panel: [panels][steps][64][4 bytes], where a step is two bfloat16 or four int8 inputs; in
// blocks see blocks.h.
struct Product {
  int64_t kind;
  const char *weight;
  const float *scale;    // [outputs] in int8, as is
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

// What becomes of a row's sums for sixteen outputs. `add`: to what is there.
void store(const Product &product, int64_t column, __m512 result, float *out, bool add) {
  const __mmask16 mask = lanes(product.outputs - column);
  if (product.bias) result = _mm512_add_ps(result, _mm512_maskz_loadu_ps(mask, product.bias + column));
  if (add) result = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out + column), result);
  _mm512_mask_storeu_ps(out + column, mask, result);
}

}  // namespace
