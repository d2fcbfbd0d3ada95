/* The most int8 operations a core can do: independent dot products that never leave the registers.
   cc -O2 -march=native peak.c -o peak && ./peak   prints GOP/s of one core (0 where there is no VNNI). */
#include <stdio.h>
#include <time.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* other processes' time does not count */
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
enum { kRounds = 400000 };

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#define LANES 64
#define START(i) __m512i c##i = _mm512_setzero_si512();
#define STEP(i) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(c##i) : "v"(a), "v"(b));
static double measure(void) {
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(1);
#elif defined(__AVX2__)
#include <immintrin.h>
#define LANES 16 /* bytes widened to 16 bits: a multiply-add and an add */
#define START(i) __m256i c##i = _mm256_setzero_si256();
#define STEP(i) __asm__ volatile("vpmaddwd %2, %1, %%ymm15\n\tvpaddd %%ymm15, %0, %0" : "+x"(c##i) : "x"(a), "x"(b) : "ymm15");
static double measure(void) {
  const __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(1);
#endif
#if defined(LANES)
  TWELVE(START)
  const double begin = now();
  for (int i = 0; i < kRounds; ++i) {
    TWELVE(STEP)
  }
  return kRounds * 12.0 * LANES * 2 / (now() - begin) / 1e9;
}
#else
static double measure(void) { return 0; }
#endif

int main(void) {
  double best = 0;
  for (int i = 0; i < 20; ++i) {
    const double found = measure();
    best = found > best ? found : best;
  }
  printf("%.1f\n", best);
  return 0;
}
