// Which kernels this CPU can run, asked once.
#include <cstring>
#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "kernels.h"

namespace embedserve {
namespace {

struct Candidate {
  const Kernels* (*kernels)();
  bool usable;
};

#if defined(__x86_64__)
bool has_avxvnni() {  // GCC before 11 has no name for it in __builtin_cpu_supports
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

}  // namespace

const Kernels* find_kernels(const char* name) {
#if defined(__x86_64__)
  __builtin_cpu_init();  // the feature bits below include that the system saves the wide registers
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
  const Candidate candidates[] = {
      {kernels_avx512vnni, avx512}, {kernels_avxvnni, avx2 && has_avxvnni()}, {kernels_avx2, avx2}, {kernels_scalar, true}};
#elif defined(__aarch64__)
#if defined(__linux__)
  const bool dot = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
  const bool dot = true;  // every Apple AArch64 Mac has it
#endif
  const Candidate candidates[] = {{kernels_neon, dot}, {kernels_scalar, true}};
#else
  const Candidate candidates[] = {{kernels_scalar, true}};
#endif
  for (const Candidate& candidate : candidates)
    if (candidate.usable && (!strcmp(name, "auto") || !strcmp(name, candidate.kernels()->name))) return candidate.kernels();
  return nullptr;
}

}  // namespace embedserve
