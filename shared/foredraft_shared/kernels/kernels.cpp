// A decoder's layers for a few rows, in the vector instructions of the processor (vectors.h).
//
// A row's bits depend on the row and on the keys before it, on nothing else: every output is summed by one thread, in one
// order, with the same instructions for each number of rows. Sizes as in transformer.py: R rows, E hidden, KV key/value
// heads, G query heads for each, D head size, F feed-forward.
//
// Compiled with -ffp-contract=off: products and sums are fused where it says so, in every instance of a template alike.

#include "attention.h"
#include "greatest.h"
#include "products.h"

#ifdef _OPENMP
#include <omp.h>
#else  // the compiler has none: one thread, whatever is asked for
int omp_get_thread_num() { return 0; }
#endif

namespace {

// --- rows

void rms_norm(const float *row, const float *weight, int64_t size, float eps, float *out) {
  Floats squares[kParts]{};
  for (int64_t at = 0; at < size; at += kWide) {
    for (int part = 0; part < kParts; ++part) {
      const Floats some = load(row + at + part * kLanes, size - at - part * kLanes);
      squares[part] = fused(some, some, squares[part]);
    }
  }
  const float factor = 1.0f / std::sqrt(sum_across(squares) / (float)size + eps);
  for (int64_t at = 0; at < size; at += kLanes)
    store(out + at, load(row + at, size - at) * factor * load(weight + at, size - at), size - at);
}

void silu_times(const float *gate, const float *up, int64_t size, float *out) {
  for (int64_t at = 0; at < size; at += kLanes) {
    const Floats x = load(gate + at, size - at);
    store(out + at, x / (exponential(-x) + 1.0f) * load(up + at, size - at), size - at);
  }
}

// Neighbouring numbers of `heads` heads are turned as complex numbers.
void rotate(float *row, int64_t heads, int64_t dim, const float *turns) {
  const Longs low = Longs{} + 0xFFFFFFFF, minus = Longs{} + 0x80000000;
  for (int64_t head = 0; head < heads; ++head, row += dim) {
    for (int64_t at = 0; at < dim; at += kLanes) {
      const Floats x = load(row + at, dim - at);
      const Longs pairs = (Longs)x, turn = (Longs)load(turns + at, dim - at);
      const Floats real = (Floats)((turn & low) | turn << 32), imaginary = (Floats)((turn & ~low) | turn >> 32);
      const Longs crossed = (Longs)((Floats)(pairs << 32 | pairs >> 32) * imaginary);
      store(row + at, fused(x, real, (Floats)(crossed ^ minus)), dim - at);
    }
  }
}

void to_bfloat16(const float *from, int64_t size, uint16_t *to) {
  for (int64_t at = 0; at < size; at += kLanes) store_bfloat16(to + at, load(from + at, size - at), size - at);
}

// --- a layer

// Memory that is there from call to call: passes come from one thread, which frees it at its end.
struct Scratch {
  char *memory = nullptr;
  int64_t size = 0, used = 0;
  ~Scratch() { std::free(memory); }
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

  // `more`: bytes for others to take.
  Work(Scratch &scratch, const Sizes &sizes, int64_t count, int64_t keys, int64_t threads, int64_t more = 0) {
    const int64_t query = sizes.heads * sizes.dim, key = sizes.kv_heads * sizes.dim;
    width = rounded(std::max({sizes.hidden, query, sizes.feed_forward}), 64);
    scores_size = 4 * rounded(keys, kWide);
    const int64_t wides = std::max(query + 2 * key, 2 * sizes.feed_forward);
    scratch.need(count * (width * 6 + 4 + 4 * wides + 2 * query + 4 * key) + threads * scores_size * 4 + 512 + more);
    bytes = scratch.take<char>(count * width * 2);
    scales = scratch.take<float>(count);
    wide = scratch.take<float>(count * wides);
    rows = scratch.take<float>(count * width);
    queries = scratch.take<uint16_t>(count * query);
    keys_values = scratch.take<uint16_t>(count * 2 * key);
    scores = scratch.take<float>(threads * scores_size);
  }
};

void product(const Work &work, const Product &product, const float *rows, int64_t count, float *out) {
#pragma omp for
  for (int64_t row = 0; row < count; ++row)
    narrow(product, rows + row * product.inputs, work.bytes + row * stride_of(product), work.scales + row);
  multiply(product, count, work.bytes, work.scales, out, false);
}

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

// hidden [R, E] is changed in place.
void through(const Layer &layer, const Sizes &sizes, const Rows &rows, const Work &work, uint16_t *arena, float *hidden) {
  project(layer, sizes, work, hidden, rows.turns, rows.count, work.queries, work.keys_values);
  attend(sizes, rows, work, omp_get_thread_num(), arena, work.queries, work.keys_values, work.rows, work.width);
  finish(layer, sizes, work, hidden, work.rows, work.width, rows.count);
}

thread_local Scratch scratch;

int64_t most_keys(const Rows &rows) {
  int64_t most = 0;
  for (int64_t row = 0; row < rows.count; ++row) most = std::max(most, rows.positions[row] + 1);
  return most;
}

}  // namespace

extern "C" {

// Whether this process may run them: 0 if so. To be asked before anything else.
int64_t foredraft_begin() {
#ifdef FOREDRAFT_AMX
  return may_use_tiles() ? 0 : 1;
#else
  return 0;
#endif
}

// [R, inputs] -> [R, outputs]; `norm` [inputs] may be null.
void foredraft_product(const Product *weight, const float *norm, float eps, const float *rows, int64_t count, float *out,
                       int64_t threads) {
  const Sizes sizes{weight->inputs, 0, 0, 0, 0, 0, eps};
  const Work work(scratch, sizes, count, 0, threads);
#pragma omp parallel num_threads(threads)
  {
    if (norm) {
      normed_product(sizes, work, *weight, norm, rows, count, out);
    } else {
      product(work, *weight, rows, count, out);
    }
  }
}

// An exit: its layer upon `hidden` [R, E], which stays as it is; of `chosen` rows the scores [C, V], and what is most probable
// of each: [C, considered] and [C].
void foredraft_exit(const Exit *head, const Sizes *sizes, const Rows *rows, uint16_t *arena, const float *hidden,
                    const int64_t *chosen, int64_t count, int64_t considered, float *scores, int64_t *found, float *logs,
                    float *doubts, int64_t threads) {
  const int64_t width = sizes->hidden, size = head->rows.outputs;
  const Work work(scratch, *sizes, rows->count, most_keys(*rows), threads, (rows->count + 2 * count) * width * 4 + 192);
  float *states = scratch.take<float>(rows->count * width), *mapped = scratch.take<float>(count * width);
  float *picked = scratch.take<float>(count * width);
  std::memcpy(states, hidden, rows->count * width * 4);
#pragma omp parallel num_threads(threads)
  {
    through(head->layer, *sizes, *rows, work, arena, states);
#pragma omp for
    for (int64_t row = 0; row < count; ++row)
      std::memcpy(picked + row * width, states + chosen[row] * width, 4 * width);
    normed_product(*sizes, work, head->map, head->norm, picked, count, mapped);
    product(work, head->rows, mapped, count, scores);
#pragma omp for
    for (int64_t row = 0; row < count; ++row)
      most_probable(scores + row * size, head->tokens, size, considered, found + row * considered, logs + row * considered,
                    doubts + row);
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
  for (int64_t at = 0; at < count; ++at) through(layers[at], *sizes, *rows, work, arena + at * arena_stride, hidden);
}
}
