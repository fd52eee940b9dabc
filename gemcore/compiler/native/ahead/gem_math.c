/* What compiled code calls of a C library, for where there is none. Computed in double, so that nearly
 * every result is the correctly rounded one, which good C libraries give too. */
#include <stddef.h>
#include <stdint.h>

float expf(float x);
float logf(float x);
float powf(float x, float y);
float tanhf(float x);
float erff(float x);
void *memcpy(void *to, const void *from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

static double from_bits(uint64_t bits) {
  union {
    uint64_t bits;
    double value;
  } both = {bits};
  return both.value;
}

static uint64_t bits_of(double value) {
  union {
    double value;
    uint64_t bits;
  } both = {value};
  return both.bits;
}

/* e^x for |x| < 700: x = n log 2 + r, and the Taylor series of e^r. */
static double exponential(double x) {
  int64_t n = (int64_t)(x * 1.4426950408889634 + (x < 0 ? -0.5 : 0.5));
  double r = x - (double)n * 0.69314718036912382 - (double)n * 1.9082149292705877e-10;
  double sum = 1;
  for (int i = 13; i > 0; --i) sum = 1 + sum * r / i;
  return sum * from_bits((uint64_t)(n + 1023) << 52);
}

/* log x for normal x > 0: x = 2^n m with m around 1, and the series of atanh((m - 1) / (m + 1)). */
static double logarithm(double x) {
  uint64_t bits = bits_of(x);
  int64_t n = (int64_t)(bits >> 52) - 1023;
  double m = from_bits((bits & 0xfffffffffffffull) | 0x3ff0000000000000ull);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    n += 1;
  }
  double s = (m - 1) / (m + 1), square = s * s, sum = 0;
  for (int i = 21; i > 0; i -= 2) sum = sum * square + 1.0 / i;
  return 2 * s * sum + (double)n * 0.6931471805599453;
}

static int is_nan(double x) { return x != x; }

float expf(float x) {
  if (is_nan(x)) return x;
  if (x > 89) return (float)from_bits(0x7ff0000000000000ull);
  return x < -105 ? 0 : (float)exponential(x);
}

float logf(float x) {
  if (is_nan(x) || x > 3.4028234e38f) return x;
  if (x == 0) return -(float)from_bits(0x7ff0000000000000ull);
  return x < 0 ? (float)from_bits(0x7ff8000000000000ull) : (float)logarithm(x);
}

float powf(float x, float y) {
  if (y == 0 || x == 1) return 1;
  if (is_nan(x) || is_nan(y)) return x + y;
  if (y == 1) return x;
  if (y == 2) return x * x;
  double size = x < 0 ? -(double)x : x;
  int whole = y > -1e9f && y < 1e9f && (float)(int64_t)y == y;
  double sign = x < 0 && whole && (int64_t)y % 2 ? -1 : 1;
  if (x < 0 && !whole) return (float)from_bits(0x7ff8000000000000ull);
  if (size == 0) return y > 0 ? 0 : (float)from_bits(0x7ff0000000000000ull);
  double power = y * logarithm(size);
  if (power > 90) return (float)(sign * from_bits(0x7ff0000000000000ull));
  return power < -105 ? 0 : (float)(sign * exponential(power));
}

float tanhf(float x) {
  if (is_nan(x) || (x < 1e-4f && x > -1e-4f)) return x;
  if (x > 10 || x < -10) return x < 0 ? -1 : 1;
  double e = exponential(2 * (double)x);
  return (float)((e - 1) / (e + 1));
}

/* erf x = 2 / sqrt(pi) e^(-x^2) (x + 2 x^3 / 3 + 4 x^5 / 15 + ...). */
float erff(float x) {
  if (is_nan(x)) return x;
  if (x > 4 || x < -4) return x < 0 ? -1 : 1;
  double square = (double)x * x, term = x, sum = x;
  for (int i = 1; i < 90; ++i) {
    term *= 2 * square / (2 * i + 1);
    sum += term;
  }
  return (float)(1.1283791670955126 * exponential(-square) * sum);
}

/* The barrier keeps the compiler from making these loops calls of themselves. */
#define APART __asm__ volatile("" ::: "memory")

void *memcpy(void *to, const void *from, size_t bytes) {
  uint8_t *target = to;
  const uint8_t *source = from;
  if (((uintptr_t)target | (uintptr_t)source) % 8 == 0) {
    for (; bytes >= 8; bytes -= 8, target += 8, source += 8) {
      *(uint64_t *)(void *)target = *(const uint64_t *)(const void *)source;
      APART;
    }
  }
  while (bytes--) {
    *target++ = *source++;
    APART;
  }
  return to;
}

void *memmove(void *to, const void *from, size_t bytes) {
  uint8_t *target = to;
  const uint8_t *source = from;
  if (target <= source) return memcpy(to, from, bytes);
  while (bytes--) {
    target[bytes] = source[bytes];
    APART;
  }
  return to;
}

void *memset(void *to, int value, size_t bytes) {
  uint8_t *target = to;
  while (bytes--) {
    *target++ = (uint8_t)value;
    APART;
  }
  return to;
}
