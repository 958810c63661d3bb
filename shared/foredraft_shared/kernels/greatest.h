// The most probable of many scores.

#pragma once

#include "common.h"

namespace {

constexpr int64_t kMostConsidered = 64;

struct Found {
  float score;
  int64_t place;
  // The greater first; of equals the one that came first.
  bool operator<(const Found &other) const { return score > other.score || (score == other.score && place < other.place); }
};

// `size` scores -> the `count` greatest: their tokens and log-probabilities, the greatest first; and the entropy of all.
void most_probable(const float *scores, const int64_t *tokens, int64_t size, int64_t count, int64_t *found, float *logs,
                   float *doubt) {
  Found heap[kMostConsidered];
  for (int64_t place = 0; place < count; ++place) heap[place] = {scores[place], place};
  std::make_heap(heap, heap + count);
  for (int64_t place = count; place < size; ++place) {
    if (scores[place] <= heap[0].score) continue;
    std::pop_heap(heap, heap + count);
    heap[count - 1] = {scores[place], place};
    std::push_heap(heap, heap + count);
  }
  std::sort_heap(heap, heap + count);
  const float most = heap[0].score;
  Floats sums{}, depths{};
  int64_t at = 0;
  for (; at + kLanes <= size; at += kLanes) {
    const Floats depth = whole<Floats>(scores + at) - most, share = exponential(depth);
    sums += share;
    depths = fused(share, depth, depths);
  }
  float sum = 0.0f, deep = 0.0f;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += sums[lane], deep += depths[lane];
  for (; at < size; ++at) {
    const float depth = scores[at] - most, share = std::exp(depth);
    sum += share, deep += share * depth;
  }
  *doubt = std::log(sum) - deep / sum;
  for (int64_t index = 0; index < count; ++index) {
    found[index] = tokens[heap[index].place];
    logs[index] = heap[index].score - most - std::log(sum);
  }
}

}  // namespace
