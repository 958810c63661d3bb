// Products of the cloud's passes, in bfloat16 and in eight bits. In tiles see tiles.h.

#pragma once

#include "blocks.h"

namespace {

struct Bfloat16 {
  static constexpr bool kBytes = false;
  using Sums = Floats;
  static Sums start(const Product &, int64_t) { return Floats{}; }
  static Ints row(int32_t pair) { return Ints{} + pair; }
  static void add(Sums &sums, Ints row, Ints weight) { add_pairs(sums, row, weight); }
  static Sums added(const Sums &sums, const char *more) { return sums + whole<Floats>(more); }
  static Floats result(const Product &, int64_t, const Sums &sums, float) { return sums; }
};

// Here it is the rows that are unsigned. Where an instruction wants both signed, they are shifted back.
struct Int8 {
  static constexpr bool kBytes = true;
  using Sums = Dots<8>;
  static Sums start(const Product &product, int64_t column) {
    if (Sums::kSigned) return {Ints{}};
    return {load_words(product.shift + column, product.outputs - column)};
  }
  static Ints row(int32_t four) { return Ints{} + (Sums::kSigned ? four ^ (int32_t)0x80808080 : four); }
  static void add(Sums &sums, Ints row, Ints weight) { Sums::kSigned ? sums.add(weight, row) : sums.add(row, weight); }
  static Sums added(const Sums &sums, const char *more) { return {sums.result() + whole<Ints>(more)}; }
  static Floats result(const Product &product, int64_t column, const Sums &sums, float scale) {
    return as_floats(sums.result()) * load(product.scale + column, product.outputs - column) * scale;
  }
};

// M rows by one panel. Where the registers do not hold the sums of its vectors, sixteen steps at a time, some vectors after the
// others. `add`: to what is there.
template <class Kind, int M>
void panel(const Product &product, int64_t index, const char *rows, const float *scales, float *out, bool add) {
  const int64_t steps = steps_of(product), stride = stride_of(product), first = index * kPanel;
  const char *weight = product.weight + index * steps * kPanel * 4;
  typename Kind::Sums sums[M][kVectors];
#pragma GCC unroll 16
  for (int j = 0; j < kVectors; ++j)
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) sums[m][j] = Kind::start(product, first + j * kLanes);
  const int64_t some_steps = kTile == kVectors ? steps : kTileSteps;
  for (int64_t step = 0; step < steps; step += some_steps, rows += 4 * some_steps, weight += some_steps * kPanel * 4) {
    for (int tile = 0; tile < kVectors; tile += kTile) {
      typename Kind::Sums own[M][kTile];
#pragma GCC unroll 6
      for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int j = 0; j < kTile; ++j) own[m][j] = sums[m][tile + j];
      const char *from = weight + tile * kLanes * 4;
      for (int each = 0; each < some_steps; ++each, from += kPanel * 4) {
        Ints some[kTile];
#pragma GCC unroll 4
        for (int j = 0; j < kTile; ++j) {
          some[j] = whole<Ints>(from + j * kLanes * 4);
          if (j * kLanes % 16 == 0) __builtin_prefetch(from + kAhead + j * kLanes * 4);
        }
#pragma GCC unroll 6
        for (int m = 0; m < M; ++m) {
          int32_t four;
          std::memcpy(&four, rows + m * stride + 4 * each, 4);
          const Ints same = Kind::row(four);
#pragma GCC unroll 4
          for (int j = 0; j < kTile; ++j) Kind::add(own[m][j], same, some[j]);
        }
      }
#pragma GCC unroll 6
      for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int j = 0; j < kTile; ++j) sums[m][tile + j] = own[m][j];
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < kVectors; ++j) {
    const int64_t column = first + j * kLanes;
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) {
      const Floats result = Kind::result(product, column, sums[m][j], scales[m]);
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
    if (kTile == 4) {  // a panel's vectors at once, with registers for six rows
      switch (left) {
        case 1: BLOCK(1); break;
        case 2: BLOCK(2); break;
        case 3: BLOCK(3); break;
        case 4: case 7: case 8: BLOCK(4); break;
        case 5: BLOCK(5); break;
        default: BLOCK(6);
      }
    } else {
      switch (left) {
        case 1: BLOCK(1); break;
        case 2: case 5: BLOCK(2); break;
        case 3: case 6: BLOCK(3); break;
        default: BLOCK(4);
      }
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
  Floats most = all(1e-30f);
  for (int64_t at = 0; at < inputs; at += kLanes) most = largest(most, absolute(load(row + at, inputs - at)));
  *scale = largest_across(most) * (1.0f / 127.0f);
  for (int64_t at = 0; at < stride; at += kLanes) {
    const Quarters narrowed = __builtin_convertvector(nearest(load(row + at, inputs - at) / *scale) + 128, Quarters);
    std::memcpy(bytes + at, &narrowed, sizeof narrowed);
  }
}

}  // namespace
