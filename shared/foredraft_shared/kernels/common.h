// What a caller hands over, and what every kernel is made of.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "vectors.h"

extern "C" {

enum Kind : int64_t { kBfloat16, kInt8, kBlocks8, kBlocks4 };

// A linear layer. 64 outputs are a panel: [panels][steps][64][4 bytes], where a step is two bfloat16 or four int8 inputs, and
// steps are filled up to sixteens; in blocks see blocks.h.
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

// What reads a state on the way: one more layer, a norm, a matrix, and the rows of the tokens that it can say.
struct Exit {
  Layer layer;
  const float *norm;
  Product map, rows;
  const int64_t *tokens;  // of the rows
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

constexpr int64_t kPanel = 64, kVectors = kPanel / kLanes, kPageTokens = 64, kAhead = 4096;
constexpr int64_t kTileSteps = 16;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

int64_t rounded(int64_t size, int64_t step) { return (size + step - 1) / step * step; }

// exp(x) within 2 ulp (the polynomial of Cephes).
Floats exponential(Floats x) {
  x = largest(smallest(x, all(88.3f)), all(-87.3f));
  const Ints power = nearest(x * 1.44269504f);
  const Floats n = as_floats(power);
  x = fused(n, all(-0.693359375f), x);
  x = fused(n, all(2.12194440e-4f), x);
  Floats p = all(1.9875691500e-4f);
  for (float factor : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = fused(p, x, all(factor));
  p = fused(p, x * x, x + 1.0f);
  return p * (Floats)((power + 127) << 23);
}

// What becomes of a row's sums for some outputs. `add`: to what is there.
void store_result(const Product &product, int64_t column, Floats result, float *out, bool add) {
  const int64_t left = product.outputs - column;
  if (product.bias) result = result + load(product.bias + column, left);
  if (add) result = load(out + column, left) + result;
  store(out + column, result, left);
}

}  // namespace
