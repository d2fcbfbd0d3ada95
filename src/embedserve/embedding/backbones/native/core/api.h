// What the files of the C ABI share.
#pragma once
#include <exception>
#include <string>

#define EMBEDSERVE_API extern "C" __attribute__((visibility("default")))

namespace embedserve {

extern thread_local std::string error;  // of this thread's last call that failed

template <class F>
int guarded(F&& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& caught) {
    error = caught.what();
    return 1;
  }
}

}  // namespace embedserve
