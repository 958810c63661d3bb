// Attention of one row over the pages of its session.
//
// A row sees the keys up to its own position, in their order; who else is computed changes nothing.

#pragma once

#include "products.h"

namespace {

// Lane i of the result is the sum of the lanes of sums[i].
__m512 sums_of_each(__m512 *sums) {
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2)
    sums[i] = _mm512_add_ps(_mm512_unpacklo_ps(sums[i], sums[i + 1]), _mm512_unpackhi_ps(sums[i], sums[i + 1]));
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4)
    sums[i] = _mm512_add_ps(_mm512_shuffle_ps(sums[i], sums[i + 2], 0x44), _mm512_shuffle_ps(sums[i], sums[i + 2], 0xEE));
#pragma GCC unroll 2
  for (int i = 0; i < 16; i += 8)
    sums[i] = _mm512_add_ps(_mm512_shuffle_f32x4(sums[i], sums[i + 4], 0x88), _mm512_shuffle_f32x4(sums[i], sums[i + 4], 0xDD));
  return _mm512_add_ps(_mm512_shuffle_f32x4(sums[0], sums[8], 0x88), _mm512_shuffle_f32x4(sums[0], sums[8], 0xDD));
}

// One query by 16 neighbouring keys.
__m512 sixteen_dots(const uint16_t *query, const uint16_t *keys, int64_t dim) {
  __m512 sums[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) sums[i] = _mm512_setzero_ps();
  for (int64_t at = 0; at < dim; at += 32) {
    const __mmask16 mask = lanes((dim - at) / 2);
    const __m512i some = _mm512_maskz_loadu_epi32(mask, query + at);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) Bfloat16::add(sums[i], some, _mm512_maskz_loadu_epi32(mask, keys + i * dim + at));
  }
  return sums_of_each(sums);
}

// Q rows of `weights` by the values of the keys [first, count): columns [at, at + 64) of each.
template <int Q>
void weighted_values(const float *weights, int64_t weight_stride, const uint16_t *values, const int64_t *pages, int64_t first,
                     int64_t count, int64_t dim, int64_t at, const float *totals, float *out, int64_t out_stride) {
  __m512 sums[Q][kVectors];
  __mmask16 masks[kVectors];
  for (int j = 0; j < kVectors; ++j) {
    masks[j] = lanes(dim - at - j * kLanes);
    for (int q = 0; q < Q; ++q) sums[q][j] = _mm512_setzero_ps();
  }
  for (int64_t key = first; key < count; ++key) {
    const uint16_t *value = values + (pages[key / kPageTokens] * kPageTokens + key % kPageTokens) * dim + at;
    for (int j = 0; j < kVectors; ++j) {
      const __m512 some = widened(_mm256_maskz_loadu_epi16(masks[j], value + j * kLanes));
      for (int q = 0; q < Q; ++q)
        sums[q][j] = _mm512_fmadd_ps(_mm512_set1_ps(weights[q * weight_stride + key]), some, sums[q][j]);
    }
  }
  for (int q = 0; q < Q; ++q)
    for (int j = 0; j < kVectors; ++j)
      _mm512_mask_storeu_ps(out + q * out_stride + at + j * kLanes, masks[j], _mm512_div_ps(sums[q][j], _mm512_set1_ps(totals[q])));
}

// Sixteen neighbouring keys, or values, of `dim` numbers, on their way into the cache.
void fetch(const uint16_t *sixteen, int64_t dim) {
  for (int64_t at = 0; at < kLanes * dim; at += 32) _mm_prefetch(sixteen + at, _MM_HINT_T0);
}

// The query heads of one row that share a key head. queries, out: of the row; keys, values: of the key head.
void attend_row(const Sizes &sizes, int64_t kv_head, const uint16_t *queries, const uint16_t *keys, const uint16_t *values,
                const int64_t *pages, int64_t position, float *scores, float *out) {
  const int64_t dim = sizes.dim, count = position + 1, group = sizes.heads / sizes.kv_heads, padded = rounded(count, kLanes);
  const int64_t first = sizes.window ? std::max<int64_t>(0, count - sizes.window) : 0, begin = first / kLanes * kLanes;
  const __m512 scale = _mm512_set1_ps(1.0f / std::sqrt((float)dim)), nothing = _mm512_set1_ps(-kInfinity);
  for (int64_t done = 0; done < group; done += 4) {
    const int64_t some = std::min<int64_t>(4, group - done);
    float totals[4];
    for (int64_t q = 0; q < some; ++q) {
      const uint16_t *query = queries + ((done + q) * sizes.kv_heads + kv_head) * dim;
      float *own = scores + q * padded;
      __m512 most = nothing;
      for (int64_t key = begin; key < count; key += kLanes) {
        const __mmask16 seen = lanes(count - key) & ~lanes(first - key);
        const int64_t place = (pages[key / kPageTokens] * kPageTokens + key % kPageTokens) * dim;
        const uint16_t *sixteen = keys + place;
        if (done + q == 0) {  // pages lie apart, so that the processor does not foresee where the next one begins
          const int64_t next = key + kLanes;
          if (next < count) fetch(keys + (pages[next / kPageTokens] * kPageTokens + next % kPageTokens) * dim, dim);
          fetch(values + place, dim);
        }
        const __m512 score = _mm512_mask_mul_ps(nothing, seen, sixteen_dots(query, sixteen, dim), scale);
        _mm512_storeu_ps(own + key, score);
        most = _mm512_max_ps(most, score);
      }
      const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most));
      __m512 total = _mm512_setzero_ps();
      for (int64_t key = begin; key < count; key += kLanes) {
        const __m512 score = _mm512_loadu_ps(own + key);
        const __mmask16 seen = _mm512_cmp_ps_mask(score, nothing, _CMP_NEQ_UQ);
        const __m512 weight = _mm512_maskz_mov_ps(seen, exponential(_mm512_sub_ps(score, top)));
        _mm512_storeu_ps(own + key, weight);
        total = _mm512_add_ps(total, weight);
      }
      totals[q] = _mm512_reduce_add_ps(total);
    }
    float *to = out + (done * sizes.kv_heads + kv_head) * dim;
    const int64_t stride = sizes.kv_heads * dim;
    for (int64_t at = 0; at < dim; at += kVectors * kLanes) {
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
