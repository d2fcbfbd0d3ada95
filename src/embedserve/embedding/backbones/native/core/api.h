// What the files of the C ABI share.
#pragma once
#include <cstdio>
#include <exception>
#include <new>
#include <system_error>

#define EMBEDSERVE_API extern "C" __attribute__((visibility("default")))

namespace embedserve {

// Of this thread's last call that failed. Fixed room: saying that memory has run out must not need any.
extern thread_local char error[512];

enum Status { kDone = 0, kRefused = 1, kOutOfMemory = 2 };

template <class F>
int guarded(F&& body) {
  try {
    body();
    return kDone;
  } catch (const std::bad_alloc&) {
    std::snprintf(error, sizeof error, "out of memory");
    return kOutOfMemory;
  } catch (const std::system_error& caught) {  // a thread that the system does not give
    std::snprintf(error, sizeof error, "no thread of the pool: %s", caught.what());
    return kOutOfMemory;
  } catch (const std::exception& caught) {
    std::snprintf(error, sizeof error, "%s", caught.what());
    return kRefused;
  }
}

}  // namespace embedserve
