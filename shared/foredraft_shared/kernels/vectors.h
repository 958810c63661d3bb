// Vectors as wide as the processor's, and the little about them that depends on its instructions.
//
// Sums, products, conversions and choices are written with the operators of GNU vector types, which g++ and clang++ turn into the
// instructions of any processor. Below is what these cannot say, once for each instruction set. Results have the same bits in all:
// whatever is summed is summed in sixteen lanes, kParts vectors, and these in the same order (but numbers below 1e-37, which AVX-512
// takes for 0 in bfloat16).

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(FOREDRAFT_GENERIC)
#elif defined(__AVX512BF16__)
#define FOREDRAFT_AVX512
#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define FOREDRAFT_AMX
#endif
#include <immintrin.h>
#elif defined(__AVX2__)
#define FOREDRAFT_AVX2
#include <immintrin.h>
#elif defined(__aarch64__)
#define FOREDRAFT_NEON
#include <arm_neon.h>
#endif

namespace {

// So that sums fit the registers: kTile vectors of a panel at a time for up to kMostRows rows, kColumns vectors of values.
#if defined(FOREDRAFT_AVX512)
constexpr int64_t kLanes = 16, kTile = 4, kMostRows = 3, kColumns = 4;
#elif defined(FOREDRAFT_AVX2)
constexpr int64_t kLanes = 8, kTile = 2, kMostRows = 4, kColumns = 2;
#else
constexpr int64_t kLanes = 4, kTile = 2, kMostRows = 4, kColumns = 4;
#endif
constexpr int64_t kWide = 16, kParts = kWide / kLanes;

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint64_t Longs __attribute__((vector_size(4 * kLanes)));
typedef int16_t Shorts __attribute__((vector_size(4 * kLanes)));
typedef int8_t Bytes __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
typedef int8_t Quarters __attribute__((vector_size(kLanes)));

template <class Vector> Vector whole(const void *from) {
  Vector some;
  std::memcpy(&some, from, sizeof some);
  return some;
}

constexpr int32_t kCounted[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

Floats all(float x) { return x - Floats{}; }  // a sum with 0 would change -0
#if defined(FOREDRAFT_AVX512)  // of the choices below gcc makes two instructions
Floats largest(Floats a, Floats b) { return _mm512_max_ps(a, b); }
Floats smallest(Floats a, Floats b) { return _mm512_min_ps(a, b); }
#else
Floats largest(Floats a, Floats b) { return a > b ? a : b; }
Floats smallest(Floats a, Floats b) { return a < b ? a : b; }
#endif
Floats absolute(Floats x) { return (Floats)((Ints)x & 0x7FFFFFFF); }
Floats as_floats(Ints x) { return __builtin_convertvector(x, Floats); }

// Numbers of 16 bits, unsigned. gcc takes three instructions for the conversion it could do in one.
Ints widened(Halves x) {
#if defined(FOREDRAFT_AVX512)
  return (Ints)_mm512_cvtepu16_epi32((__m256i)x);
#elif defined(FOREDRAFT_AVX2)
  return (Ints)_mm256_cvtepu16_epi32((__m128i)x);
#else
  return __builtin_convertvector(x, Ints);
#endif
}

// --- loads and stores of so many lanes as are left, zeros beyond

#if defined(FOREDRAFT_AVX512)

__mmask16 lanes(int64_t left) { return left >= kLanes ? 0xFFFF : left <= 0 ? 0 : (1u << left) - 1; }

Ints load_words(const void *from, int64_t left) { return (Ints)_mm512_maskz_loadu_epi32(lanes(left), from); }
Halves load_halves(const uint16_t *from, int64_t left) { return (Halves)_mm256_maskz_loadu_epi16(lanes(left), from); }
void store(float *to, Floats x, int64_t left) { _mm512_mask_storeu_ps(to, lanes(left), x); }
void store_bfloat16(uint16_t *to, Floats x, int64_t left) {
  _mm256_mask_storeu_epi16(to, lanes(left), (__m256i)_mm512_cvtneps_pbh(x));
}

#else

template <class Vector> Vector load_some(const void *from, int64_t left) {
  if (__builtin_expect(left >= kLanes, 1)) return whole<Vector>(from);
  Vector some{};
  if (left > 0) std::memcpy(&some, from, left * sizeof some / kLanes);
  return some;
}

template <class Vector> void store_some(void *to, const Vector &x, int64_t left) {
  if (__builtin_expect(left >= kLanes, 1)) std::memcpy(to, &x, sizeof x);
  else if (left > 0) std::memcpy(to, &x, left * sizeof x / kLanes);
}

Ints load_words(const void *from, int64_t left) { return load_some<Ints>(from, left); }
Halves load_halves(const uint16_t *from, int64_t left) { return load_some<Halves>(from, left); }
void store(float *to, Floats x, int64_t left) { store_some(to, x, left); }
void store_bfloat16(uint16_t *to, Floats x, int64_t left) {  // the nearest, of two the even one
  const Ints bits = (Ints)x;
  store_some(to, __builtin_convertvector((bits + 0x7FFF + (bits >> 16 & 1)) >> 16, Halves), left);
}

#endif

Floats load(const float *from, int64_t left) { return (Floats)load_words(from, left); }

// --- fused: a * b + c, rounded once; nearest: the whole number, of two the even one

#if defined(FOREDRAFT_AVX512)
Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
Ints nearest(Floats x) { return (Ints)_mm512_cvtps_epi32(x); }
Floats load_float16(const char *from) { return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)from)); }
#elif defined(FOREDRAFT_AVX2)
Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
Ints nearest(Floats x) { return (Ints)_mm256_cvtps_epi32(x); }
Floats load_float16(const char *from) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)); }
#elif defined(FOREDRAFT_NEON)
Floats fused(Floats a, Floats b, Floats c) { return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
Ints nearest(Floats x) { return (Ints)vcvtnq_s32_f32((float32x4_t)x); }
Floats load_float16(const char *from) { return (Floats)vcvt_f32_f16(vld1_f16((const float16_t *)from)); }
#else
Floats fused(Floats a, Floats b, Floats c) {
  for (int i = 0; i < kLanes; ++i) c[i] = std::fma(a[i], b[i], c[i]);
  return c;
}
Ints nearest(Floats x) { return (Ints)(x + 12582912.0f) - 0x4B400000; }  // 1.5 * 2^23: what is less than 2^22
Floats load_float16(const char *from) {  // but infinities
  const Ints bits = widened(whole<Halves>(from));
  const Floats size = (Floats)((bits & 0x7FFF) << 13) * 0x1p112f;
  return (Floats)((Ints)size | (bits & 0x8000) << 16);
}
#endif

// --- across lanes

float largest_across(Floats x) {
#if defined(FOREDRAFT_AVX512)
  return _mm512_reduce_max_ps(x);
#else
  for (int64_t half = kLanes / 2; half; half /= 2)
    for (int64_t i = 0; i < half; ++i) x[i] = x[i] > x[i + half] ? x[i] : x[i + half];
  return x[0];
#endif
}

// Each lane to that half of them away, then to that a quarter of them away, and so on.
template <typename Vector> auto halved(Vector x) {
  for (int64_t half = kLanes / 2; half; half /= 2)
    for (int64_t i = 0; i < half; ++i) x[i] += x[i + half];
  return x[0];
}

int32_t sum_across(Ints x) {
#if defined(FOREDRAFT_AVX512)
  return _mm512_reduce_add_epi32((__m512i)x);
#else
  return halved(x);
#endif
}

// Of sixteen lanes, in the same order.
float sum_across(Floats *parts) {
#if defined(FOREDRAFT_AVX512)
  return _mm512_reduce_add_ps(*parts);
#else
  for (int64_t half = kParts / 2; half; half /= 2)
    for (int64_t i = 0; i < half; ++i) parts[i] += parts[i + half];
  return halved(parts[0]);
#endif
}

// Lane i of the result is the sum of the lanes of sums[i], of four neighbours each first.
Floats sums_of_each(Floats *sums) {
#if defined(FOREDRAFT_AVX512)
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
#elif defined(FOREDRAFT_AVX2)
  for (int i = 0; i < 8; i += 2) sums[i] = _mm256_unpacklo_ps(sums[i], sums[i + 1]) + _mm256_unpackhi_ps(sums[i], sums[i + 1]);
  for (int i = 0; i < 8; i += 4)
    sums[i] = _mm256_shuffle_ps(sums[i], sums[i + 2], 0x44) + _mm256_shuffle_ps(sums[i], sums[i + 2], 0xEE);
  return _mm256_permute2f128_ps(sums[0], sums[4], 0x20) + _mm256_permute2f128_ps(sums[0], sums[4], 0x31);
#else
  Floats column[4];
  for (int i = 0; i < 4; ++i) column[i] = Floats{sums[0][i], sums[1][i], sums[2][i], sums[3][i]};
  return (column[0] + column[2]) + (column[1] + column[3]);
#endif
}

// Neighbouring pairs of bfloat16 by pairs, added to a lane each.
void add_pairs(Floats &sums, Ints a, Ints b) {
#if defined(FOREDRAFT_AVX512)
  // Stands as such: gcc copies the sums to and fro otherwise, a third of its speed. So does vpdpbusd below.
  asm("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
#elif defined(FOREDRAFT_GENERIC)
  sums += (Floats)(a & -0x10000) * (Floats)(b & -0x10000);
  sums += (Floats)(a << 16) * (Floats)(b << 16);
#else  // the odd ones first, as the instruction does; a product is exact, fused or not
  sums = fused((Floats)(a & -0x10000), (Floats)(b & -0x10000), sums);
  sums = fused((Floats)(a << 16), (Floats)(b << 16), sums);
#endif
}

// --- sums of bytes by bytes, four neighbouring ones to a lane: weights of 0 to 15 or of 1 to 255 by numbers of -127 to 127

#if defined(FOREDRAFT_AVX512) || defined(__AVXVNNI__) || (defined(FOREDRAFT_NEON) && defined(__ARM_FEATURE_DOTPROD))

// In one instruction. x86 takes weights as they are: those of 8 bits start from `start`, -128 times the sum of the row's numbers.
template <int Bits> struct Dots {
  Ints sums;
#if defined(FOREDRAFT_NEON)
  static constexpr bool kSigned = true;
  void begin(int32_t) { sums = Ints{}; }
  void add(Ints weights, Ints row) { sums = (Ints)vdotq_s32((int32x4_t)sums, (int8x16_t)weights, (int8x16_t)row); }
#else
  static constexpr bool kSigned = false;
  void begin(int32_t start) { sums = Ints{} + (Bits == 8 ? start : 0); }
#if defined(FOREDRAFT_AVX512)
  void add(Ints weights, Ints row) { asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(row)); }
#else
  void add(Ints weights, Ints row) { asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(weights), "x"(row)); }
#endif
#endif
  Ints result() const { return sums; }
};

#else

// In 16 bits, two neighbours each, which hold two products of 127 by 127, or a whole block's sixteen of 15 by 127.
template <int Bits> Shorts pairs(Ints weights, Ints row) {
#if defined(FOREDRAFT_AVX2)  // unsigned by signed
  if (Bits == 4) return (Shorts)_mm256_maddubs_epi16((__m256i)weights, (__m256i)row);
  return (Shorts)_mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)row), _mm256_sign_epi8((__m256i)weights, (__m256i)row));
#elif defined(FOREDRAFT_NEON)
  const int8x16_t a = (int8x16_t)weights, b = (int8x16_t)row;
  return (Shorts)vpaddq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)), vmull_high_s8(a, b));
#else
  const Shorts a = (Shorts)weights, b = (Shorts)row;
  return (a << 8 >> 8) * (b << 8 >> 8) + (a >> 8) * (b >> 8);
#endif
}

Ints sums_of_pairs(Shorts x) {
#if defined(FOREDRAFT_AVX2)
  return (Ints)_mm256_madd_epi16((__m256i)x, _mm256_set1_epi16(1));
#elif defined(FOREDRAFT_NEON)
  return (Ints)vpaddlq_s16((int16x8_t)x);
#else
  return ((Ints)x << 16 >> 16) + ((Ints)x >> 16);
#endif
}

template <int Bits> struct Dots {
  static constexpr bool kSigned = true;
  Ints sums;
  void begin(int32_t) { sums = Ints{}; }
  void add(Ints weights, Ints row) { sums += sums_of_pairs(pairs<Bits>(weights, row)); }
  Ints result() const { return sums; }
};

template <> struct Dots<4> {
  static constexpr bool kSigned = true;
  Shorts sums;
  void begin(int32_t) { sums = Shorts{}; }
  void add(Ints weights, Ints row) {
    sums += pairs<4>(weights, row);
#if defined(FOREDRAFT_AVX2)
    asm("" : "+x"(sums));  // or gcc gathers what is to be added, more than there are registers
#endif
  }
  Ints result() const { return sums_of_pairs(sums); }
};

#endif

}  // namespace
