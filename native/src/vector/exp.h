// e^x, our own: the same reduction and polynomial in scalar and vector form, so that a tail never differs from the body.
//
// x = n ln 2 + r with |r| <= ln 2 / 2; e^r = 1 + r + r^2 q(r), q a minimax polynomial of degree 4 (3e-9 relative before
// rounding). Relative error below 2e-7. Below -87 the result is 0, above 88 infinity; NaN stays NaN; e^0 is exactly 1.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace manylora {

namespace exponential {
constexpr float kLog2E = 1.44269504f;
constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // the high part times n is exact
constexpr float kQ[] = {4.999999343e-1f, 1.666652040e-1f, 4.166839080e-2f, 8.368745161e-3f, 1.381453957e-3f};
constexpr float kLowest = -87.0f, kHighest = 88.0f;
}  // namespace exponential

namespace {

// 2^n for an n that was rounded by adding kRound. Wrong outside the range of a float's exponent.
[[maybe_unused]] inline float power_of_two(float shifted) {
  return std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + 0x3f800000u);
}

[[maybe_unused]] inline float exp_scalar(float x) {
  using namespace exponential;
  if (x < kLowest) return 0.0f;
  if (x > kHighest) return std::numeric_limits<float>::infinity();
  const float shifted = x * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  const float q = (((kQ[4] * r + kQ[3]) * r + kQ[2]) * r + kQ[1]) * r + kQ[0];
  return (1.0f + (r + r * r * q)) * power_of_two(shifted);
}

template <class V>
[[gnu::always_inline]] inline typename V::Floats exp_vector(typename V::Floats x) {
  using namespace exponential;
  const auto shifted = V::fma(x, V::set(kLog2E), V::set(kRound));
  const auto n = shifted - V::set(kRound);
  auto r = V::fma(n, V::set(-kLn2High), x);
  r = V::fma(n, V::set(-kLn2Low), r);
  auto q = V::fma(V::set(kQ[4]), r, V::set(kQ[3]));
  q = V::fma(q, r, V::set(kQ[2]));
  q = V::fma(q, r, V::set(kQ[1]));
  q = V::fma(q, r, V::set(kQ[0]));
  auto power = V::set(1.0f) + V::fma(r * r, q, r);
  power = power * V::power_of_two(shifted);
  power = V::blend(V::less(x, V::set(kLowest)), V::set(0.0f), power);
  return V::blend(V::less(V::set(kHighest), x), V::set(std::numeric_limits<float>::infinity()), power);
}

}  // namespace
}  // namespace manylora
