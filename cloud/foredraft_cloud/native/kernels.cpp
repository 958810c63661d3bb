// A decoder's layers for a few rows, on processors with AVX-512, VNNI and bfloat16 instructions.
//
// A row's bits depend on the row and on the keys before it, on nothing else: every output is summed by one thread, in one
// order, with the same instructions for each number of rows. Sizes as in transformer.py: R rows, E hidden, KV key/value
// heads, G query heads for each, D head size, F feed-forward.
//
// Compiled with -ffp-contract=off: products and sums are fused where it says so, in every instance of a template alike.

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

// --- products
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

// --- rows

void rms_norm(const float *row, const float *weight, int64_t size, float eps, float *out) {
  __m512 squares = _mm512_setzero_ps();
  for (int64_t at = 0; at < size; at += kLanes) {
    const __m512 some = _mm512_maskz_loadu_ps(lanes(size - at), row + at);
    squares = _mm512_fmadd_ps(some, some, squares);
  }
  const __m512 factor = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / (float)size + eps));
  for (int64_t at = 0; at < size; at += kLanes) {
    const __mmask16 mask = lanes(size - at);
    const __m512 some = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, row + at), factor);
    _mm512_mask_storeu_ps(out + at, mask, _mm512_mul_ps(some, _mm512_maskz_loadu_ps(mask, weight + at)));
  }
}

void silu_times(const float *gate, const float *up, int64_t size, float *out) {
  const __m512 one = _mm512_set1_ps(1.0f);
  for (int64_t at = 0; at < size; at += kLanes) {
    const __mmask16 mask = lanes(size - at);
    const __m512 x = _mm512_maskz_loadu_ps(mask, gate + at);
    const __m512 y = _mm512_div_ps(x, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
    _mm512_mask_storeu_ps(out + at, mask, _mm512_mul_ps(y, _mm512_maskz_loadu_ps(mask, up + at)));
  }
}

// Neighbouring numbers of `heads` heads are turned as complex numbers.
void rotate(float *row, int64_t heads, int64_t dim, const float *turns) {
  for (int64_t head = 0; head < heads; ++head, row += dim) {
    for (int64_t at = 0; at < dim; at += kLanes) {
      const __mmask16 mask = lanes(dim - at);
      const __m512 x = _mm512_maskz_loadu_ps(mask, row + at), turn = _mm512_maskz_loadu_ps(mask, turns + at);
      const __m512 crossed = _mm512_mul_ps(_mm512_permute_ps(x, 0xB1), _mm512_movehdup_ps(turn));
      _mm512_mask_storeu_ps(row + at, mask, _mm512_fmaddsub_ps(x, _mm512_moveldup_ps(turn), crossed));
    }
  }
}

void to_bfloat16(const float *from, int64_t size, uint16_t *to) {
  for (int64_t at = 0; at < size; at += kLanes) {
    const __mmask16 mask = lanes(size - at);
    _mm256_mask_storeu_epi16(to + at, mask, (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, from + at)));
  }
}

// --- attention

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
        const uint16_t *sixteen = keys + (pages[key / kPageTokens] * kPageTokens + key % kPageTokens) * dim;
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

// --- a layer

// Memory that is there from call to call: passes come from one thread.
struct Scratch {
  char *memory = nullptr;
  int64_t size = 0, used = 0;
  void need(int64_t bytes) {
    if (bytes > size) {
      std::free(memory);
      size = rounded(bytes, 1 << 16);
      memory = static_cast<char *>(std::aligned_alloc(64, size));
    }
    used = 0;
  }
  template <class T> T *take(int64_t count) {
    T *taken = reinterpret_cast<T *>(memory + used);
    used += rounded(count * sizeof(T), 64);
    return taken;
  }
};

struct Work {
  char *bytes;
  float *scales, *wide, *rows, *scores;
  uint16_t *queries, *keys_values;
  int64_t width, scores_size;

  Work(Scratch &scratch, const Sizes &sizes, int64_t count, int64_t keys, int64_t threads) {
    const int64_t query = sizes.heads * sizes.dim, key = sizes.kv_heads * sizes.dim;
    width = rounded(std::max({sizes.hidden, query, sizes.feed_forward}), 64);
    scores_size = 4 * rounded(keys, kLanes);
    const int64_t wides = std::max(query + 2 * key, 2 * sizes.feed_forward);
    scratch.need(count * (width * 6 + 4 + 4 * wides + 2 * query + 4 * key) + threads * scores_size * 4 + 512);
    bytes = scratch.take<char>(count * width * 2);
    scales = scratch.take<float>(count);
    wide = scratch.take<float>(count * wides);
    rows = scratch.take<float>(count * width);
    queries = scratch.take<uint16_t>(count * query);
    keys_values = scratch.take<uint16_t>(count * 2 * key);
    scores = scratch.take<float>(threads * scores_size);
  }
};

void normed_product(const Sizes &sizes, const Work &work, const Product &product, const float *norm, const float *hidden,
                    int64_t count, float *out) {
#pragma omp for
  for (int64_t row = 0; row < count; ++row) {
    float *normed = work.rows + row * work.width;
    rms_norm(hidden + row * product.inputs, norm, product.inputs, sizes.eps, normed);
    narrow(product, normed, work.bytes + row * stride_of(product), work.scales + row);
  }
  multiply(product, count, work.bytes, work.scales, out, false);
}

// -> queries [R, G*KV, D], keys_values [R, 2, KV, D]
void project(const Layer &layer, const Sizes &sizes, const Work &work, const float *hidden, const float *turns, int64_t count,
             uint16_t *queries, uint16_t *keys_values) {
  const int64_t query = sizes.heads * sizes.dim, key = sizes.kv_heads * sizes.dim;
  normed_product(sizes, work, layer.qkv, layer.attention_norm, hidden, count, work.wide);
#pragma omp for
  for (int64_t row = 0; row < count; ++row) {
    float *qkv = work.wide + row * (query + 2 * key);
    if (layer.query_key_norm)
      for (int64_t at = 0; at < query + key; at += sizes.dim)
        rms_norm(qkv + at, layer.query_key_norm + at, sizes.dim, sizes.eps, qkv + at);
    rotate(qkv, sizes.heads + sizes.kv_heads, sizes.dim, turns + row * sizes.dim);
    to_bfloat16(qkv, query, queries + row * query);
    to_bfloat16(qkv + query, 2 * key, keys_values + row * 2 * key);
  }
}

// arena: [2, KV, pages, kPageTokens, D] -> out [R, G*KV*D], `stride` apart
void attend(const Sizes &sizes, const Rows &rows, const Work &work, int thread, uint16_t *arena, const uint16_t *queries,
            const uint16_t *keys_values, float *out, int64_t stride) {
  const int64_t dim = sizes.dim, per_head = rows.arena_pages * kPageTokens * dim, per_kind = sizes.kv_heads * per_head;
#pragma omp for
  for (int64_t row = 0; row < rows.count; ++row) {
    const int64_t position = rows.positions[row];
    if (position < 0) continue;
    const int64_t page = rows.pages[rows.starts[row] + position / kPageTokens];
    for (int64_t each = 0; each < 2 * sizes.kv_heads; ++each)  // keys, then values
      std::memcpy(arena + each * per_head + (page * kPageTokens + position % kPageTokens) * dim,
                  keys_values + (row * 2 * sizes.kv_heads + each) * dim, 2 * dim);
  }
#pragma omp for collapse(2) schedule(dynamic)
  for (int64_t row = 0; row < rows.count; ++row) {
    for (int64_t head = 0; head < sizes.kv_heads; ++head) {
      if (rows.positions[row] < 0) {
        if (head == 0) std::memset(out + row * stride, 0, 4 * sizes.heads * dim);
        continue;
      }
      attend_row(sizes, head, queries + row * sizes.heads * dim, arena + head * per_head, arena + per_kind + head * per_head,
                 rows.pages + rows.starts[row], rows.positions[row], work.scores + thread * work.scores_size,
                 out + row * stride);
    }
  }
}

// attended: [R, G*KV*D], `stride` apart; hidden is changed in place.
void finish(const Layer &layer, const Sizes &sizes, const Work &work, float *hidden, const float *attended, int64_t stride,
            int64_t count) {
#pragma omp for
  for (int64_t row = 0; row < count; ++row)
    narrow(layer.output, attended + row * stride, work.bytes + row * stride_of(layer.output), work.scales + row);
  multiply(layer.output, count, work.bytes, work.scales, hidden, true);
  normed_product(sizes, work, layer.gate_up, layer.mlp_norm, hidden, count, work.wide);
#pragma omp for
  for (int64_t row = 0; row < count; ++row) {
    const float *gate = work.wide + row * 2 * sizes.feed_forward;
    float *narrowed = work.rows + row * work.width;
    silu_times(gate, gate + sizes.feed_forward, sizes.feed_forward, narrowed);
    narrow(layer.down, narrowed, work.bytes + row * stride_of(layer.down), work.scales + row);
  }
  multiply(layer.down, count, work.bytes, work.scales, hidden, true);
}

thread_local Scratch scratch;

int64_t most_keys(const Rows &rows) {
  int64_t most = 0;
  for (int64_t row = 0; row < rows.count; ++row) most = std::max(most, rows.positions[row] + 1);
  return most;
}

}  // namespace

extern "C" {

int omp_get_thread_num();

// [R, inputs] -> [R, outputs]; `norm` [inputs] may be null.
void foredraft_product(const Product *product, const float *norm, float eps, const float *rows, int64_t count, float *out,
                       int64_t threads) {
  const Sizes sizes{product->inputs, 0, 0, 0, 0, 0, eps};
  const Work work(scratch, sizes, count, 0, threads);
#pragma omp parallel num_threads(threads)
  {
    if (norm) {
      normed_product(sizes, work, *product, norm, rows, count, out);
    } else {
#pragma omp for
      for (int64_t row = 0; row < count; ++row)
        narrow(*product, rows + row * product->inputs, work.bytes + row * stride_of(*product), work.scales + row);
      multiply(*product, count, work.bytes, work.scales, out, false);
    }
  }
}

void foredraft_project(const Layer *layer, const Sizes *sizes, const float *hidden, const float *turns, int64_t count,
                       uint16_t *queries, uint16_t *keys_values, int64_t threads) {
  const Work work(scratch, *sizes, count, 0, threads);
#pragma omp parallel num_threads(threads)
  project(*layer, *sizes, work, hidden, turns, count, queries, keys_values);
}

void foredraft_attend(const Sizes *sizes, const Rows *rows, uint16_t *arena, const uint16_t *queries,
                      const uint16_t *keys_values, float *out, int64_t threads) {
  const Work work(scratch, *sizes, rows->count, most_keys(*rows), threads);
#pragma omp parallel num_threads(threads)
  attend(*sizes, *rows, work, omp_get_thread_num(), arena, queries, keys_values, out, sizes->heads * sizes->dim);
}

void foredraft_finish(const Layer *layer, const Sizes *sizes, float *hidden, const float *attended, int64_t count,
                      int64_t threads) {
  const Work work(scratch, *sizes, count, 0, threads);
#pragma omp parallel num_threads(threads)
  finish(*layer, *sizes, work, hidden, attended, sizes->heads * sizes->dim, count);
}

// `count` layers, one after another; layer i's keys and values lie at arena + i * arena_stride.
void foredraft_layers(const Layer *layers, int64_t count, const Sizes *sizes, const Rows *rows, uint16_t *arena,
                      int64_t arena_stride, float *hidden, int64_t threads) {
  const Work work(scratch, *sizes, rows->count, most_keys(*rows), threads);
#pragma omp parallel num_threads(threads)
  for (int64_t at = 0; at < count; ++at) {
    project(layers[at], *sizes, work, hidden, rows->turns, rows->count, work.queries, work.keys_values);
    attend(*sizes, *rows, work, omp_get_thread_num(), arena + at * arena_stride, work.queries, work.keys_values, work.rows,
           work.width);
    finish(layers[at], *sizes, work, hidden, work.rows, work.width, rows->count);
  }
}
}
