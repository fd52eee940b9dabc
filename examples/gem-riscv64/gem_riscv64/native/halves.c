/* Between float16 and float32, as RISC-V's calling convention has it: a half is in a floating-point
 * register, with ones above it. TVM puts functions of these names into its objects that take halves in
 * integer registers, which is right for other processors; theirs are weak, so the linker takes these.
 */
#include <stdint.h>

typedef union {
  float value;
  uint32_t bits;
} word;

/* A float whose low 16 bits are the half, to the half's value. */
float __extendhfsf2(float half) {
  const word given = {.value = half};
  const uint32_t sign = (given.bits & 0x8000u) << 16, rest = given.bits & 0x7fffu;
  word found;
  if (rest >= 0x7c00u) { /* infinity, or not a number */
    found.bits = 0x7f800000u | (rest & 0x3ffu) << 13;
  } else if (rest >= 0x400u) {
    found.bits = (rest << 13) + (112u << 23);
  } else { /* subnormal: multiples of 2**-24, exact in float32 */
    found.value = (float)rest * 0x1p-24f;
  }
  found.bits |= sign;
  return found.value;
}

/* To the nearest half, ties to even, in the low 16 bits of the result. */
float __truncsfhf2(float value) {
  const word given = {.value = value};
  const uint32_t sign = given.bits >> 16 & 0x8000u;
  word rest = {.bits = given.bits & 0x7fffffffu};
  uint32_t half;
  if (rest.bits > 0x7f800000u) {
    half = 0x7e00u;
  } else if (rest.bits >= 0x477ff000u) { /* 65520 and more round to infinity */
    half = 0x7c00u;
  } else if (rest.bits < 0x38800000u) { /* subnormal: the last bit of 0.5 + x is worth 2**-24 */
    rest.value += 0.5f;
    half = rest.bits - 0x3f000000u;
  } else {
    half = (rest.bits - (112u << 23) + 0xfffu + (rest.bits >> 13 & 1u)) >> 13;
  }
  const word found = {.bits = 0xffff0000u | sign | half};
  return found.value;
}
