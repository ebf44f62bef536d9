// Splits operations that work row by row over the threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "manylora/workers.h"

namespace manylora {

// Calls work(row) for every row. `elements` says how much one row is, so that small steps stay on one thread.
template <class Work>
void for_rows(Workers& workers, int64_t rows, int64_t elements, const Work& work) {
  constexpr int64_t kTaskElements = 8192;  // a few microseconds: well above the cost of handing a task out
  const int64_t per_task = std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, elements));
  workers.run((rows + per_task - 1) / per_task, [&](int64_t task) {
    const int64_t stop = std::min(rows, (task + 1) * per_task);
    for (int64_t row = task * per_task; row < stop; ++row) work(row);
  });
}

}  // namespace manylora
