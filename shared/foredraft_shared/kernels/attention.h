// Attention of one row over the pages of its session.
//
// A row sees the keys up to its own position, in their order; who else is computed changes nothing.

#pragma once

#include "common.h"

namespace {

// One query by kLanes neighbouring keys.
Floats dots_of_each(const uint16_t *query, const uint16_t *keys, int64_t dim) {
  Floats parts[kParts];
#pragma GCC unroll 4
  for (int part = 0; part < kParts; ++part) {
    Floats sums[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) sums[i] = Floats{};
    for (int64_t at = 2 * kLanes * part; at < dim; at += 2 * kWide) {
      const int64_t left = (dim - at) / 2;
      const Ints some = load_words(query + at, left);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) add_pairs(sums[i], some, load_words(keys + i * dim + at, left));
    }
    parts[part] = sums_of_each(sums);
  }
  for (int step = 1; step < kParts; step *= 2)
    for (int part = 0; part < kParts; part += 2 * step) parts[part] += parts[part + step];
  return parts[0];
}

// Q rows of `weights` by the values of the keys [first, count): kColumns vectors of columns from `at` on.
template <int Q>
void weighted_values(const float *weights, int64_t weight_stride, const uint16_t *values, const int64_t *pages, int64_t first,
                     int64_t count, int64_t dim, int64_t at, const float *totals, float *out, int64_t out_stride) {
  Floats sums[Q][kColumns];
  for (int j = 0; j < kColumns; ++j)
    for (int q = 0; q < Q; ++q) sums[q][j] = Floats{};
  for (int64_t key = first; key < count; ++key) {
    const uint16_t *value = values + (pages[key / kPageTokens] * kPageTokens + key % kPageTokens) * dim + at;
    for (int j = 0; j < kColumns; ++j) {
      const Floats some = (Floats)(widened(load_halves(value + j * kLanes, dim - at - j * kLanes)) << 16);
      for (int q = 0; q < Q; ++q) sums[q][j] = fused(all(weights[q * weight_stride + key]), some, sums[q][j]);
    }
  }
  for (int q = 0; q < Q; ++q)
    for (int j = 0; j < kColumns; ++j)
      store(out + q * out_stride + at + j * kLanes, sums[q][j] / totals[q], dim - at - j * kLanes);
}

// kLanes neighbouring keys, or values, of `dim` numbers, on their way into the cache.
void fetch(const uint16_t *some, int64_t dim) {
  for (int64_t at = 0; at < kLanes * dim; at += 32) __builtin_prefetch(some + at);
}

// The query heads of one row that share a key head. queries, out: of the row; keys, values: of the key head.
void attend_row(const Sizes &sizes, int64_t kv_head, const uint16_t *queries, const uint16_t *keys, const uint16_t *values,
                const int64_t *pages, int64_t position, float *scores, float *out) {
  const int64_t dim = sizes.dim, count = position + 1, group = sizes.heads / sizes.kv_heads, padded = rounded(count, kWide);
  const int64_t first = sizes.window ? std::max<int64_t>(0, count - sizes.window) : 0, begin = first / kWide * kWide;
  const float scale = 1.0f / std::sqrt((float)dim);
  const Floats nothing = all(-kInfinity);
  const Ints counted = whole<Ints>(kCounted);
  for (int64_t done = 0; done < group; done += 4) {
    const int64_t some = std::min<int64_t>(4, group - done);
    float totals[4];
    for (int64_t q = 0; q < some; ++q) {
      const uint16_t *query = queries + ((done + q) * sizes.kv_heads + kv_head) * dim;
      float *own = scores + q * padded;
      Floats most = nothing;
      for (int64_t key = begin; key < count; key += kLanes) {
        const int64_t place = (pages[key / kPageTokens] * kPageTokens + key % kPageTokens) * dim;
        if (done + q == 0) {  // pages lie apart, so that the processor does not foresee where the next one begins
          const int64_t next = key + kLanes;
          if (next < count) fetch(keys + (pages[next / kPageTokens] * kPageTokens + next % kPageTokens) * dim, dim);
          fetch(values + place, dim);
        }
        Floats score = dots_of_each(query, keys + place, dim) * scale;
        if (key < first || count - key < kLanes) {
          const Ints seen = (counted >= (int32_t)(first - key)) & (counted < (int32_t)(count - key));
          score = seen ? score : nothing;
        }
        store(own + key, score, kLanes);
        most = largest(most, score);
      }
      for (int64_t key = rounded(count, kLanes); key < padded; key += kLanes) store(own + key, nothing, kLanes);
      const float top = largest_across(most);
      Floats total[kParts]{};
      for (int64_t key = begin; key < count; key += kWide) {
        for (int part = 0; part < kParts; ++part) {
          float *at = own + key + part * kLanes;
          const Floats score = whole<Floats>(at), weight = score != nothing ? exponential(score - top) : Floats{};
          store(at, weight, kLanes);
          total[part] += weight;
        }
      }
      totals[q] = sum_across(total);
    }
    float *to = out + (done * sizes.kv_heads + kv_head) * dim;
    const int64_t stride = sizes.kv_heads * dim;
    for (int64_t at = 0; at < dim; at += kColumns * kLanes) {
#define TILE(Q) weighted_values<Q>(scores, padded, values, pages, first, count, dim, at, totals, to, stride)
      switch (some) {
        case 1: TILE(1); break;
        case 2: TILE(2); break;
        case 3: TILE(3); break;
        default: TILE(4);
      }
#undef TILE
    }
  }
}

}  // namespace
