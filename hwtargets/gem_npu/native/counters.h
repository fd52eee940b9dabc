// What qemu-hexagon counts of a user's program, in control registers that it keeps for that: they are
// 32 bits wide, so differences are taken modulo 2^32. A processor has nothing there: only emulators count.
#pragma once
#include <stdint.h>

typedef struct {
  uint32_t packets, instructions, vectors;
} Counters;

// r0 = c20, c21, c22, written as words, for assemblers know no name for these registers.
#define GEM_READ(name, word)                          \
  static inline uint32_t name(void) {                 \
    register uint32_t value __asm__("r0");            \
    __asm__ volatile(".word " #word : "=r"(value)::"memory"); \
    return value;                                     \
  }
GEM_READ(gem_packets, 0x6a14c000)
GEM_READ(gem_instructions, 0x6a15c000)
GEM_READ(gem_vectors, 0x6a16c000)
#undef GEM_READ

static inline Counters gem_count(void) {
  Counters now = {gem_packets(), gem_instructions(), gem_vectors()};
  return now;
}

static inline Counters gem_since(Counters then) {
  Counters now = gem_count();
  now.packets -= then.packets;
  now.instructions -= then.instructions;
  now.vectors -= then.vectors;
  return now;
}
