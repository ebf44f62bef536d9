// How an int8 panel lies in memory (see linear.h). In an anonymous namespace: each file has its own copy.
#pragma once

#include "manylora/linear.h"

namespace manylora {
namespace {

struct Int8Panel {
  const int32_t* starts;  // [width]
  const float* scales;    // [width]
  const int8_t* q;        // [depth / 4][width][4]
  int64_t depth;          // padded

  explicit Int8Panel(const PanelJob& job)
      : starts(reinterpret_cast<const int32_t*>(job.panel)),
        scales(reinterpret_cast<const float*>(starts + job.width)),
        q(reinterpret_cast<const int8_t*>(scales + job.width)),
        depth(padded_depth(job.depth)) {}
};

}  // namespace
}  // namespace manylora
