// Products of rounded activations with packed weights, for the GPU: the products of a GEM model, with the
// same bits as its kernels for the processor.
//
// One thread makes one number: 16 threads side by side have the rows of one tile, so that they read 64
// neighbouring bytes at a time. Launch width outputs (rounded up to 16) x height tokens.
#include <metal_stdlib>
using namespace metal;

struct gem_sizes {
  uint tokens, inputs, outputs;
};

constant uint TILE = 16;   // rows of a tile
constant uint GROUP = 32;  // activations that share a scale

// values int8 [tokens, inputs]; scales float [tokens, inputs / 32]; sums int [tokens, inputs / 32];
// packed: blocks [tiles][inputs / group] of codes, 16 half scales and, with a minimum, 16 half minima.
template <uint BITS, int OFFSET, bool MINIMUM, uint BLOCK_GROUP>
float gem_product(device const char *values, device const float *scales, device const int *sums,
                  device const uchar *packed, uint inputs, uint token, uint row) {
  const uint code_bytes = BLOCK_GROUP * TILE * BITS / 8;
  const uint block_bytes = code_bytes + (MINIMUM ? 4 : 2) * TILE;
  const uint lane = row % TILE, groups = inputs / GROUP, blocks = inputs / BLOCK_GROUP;
  device const uchar *block = packed + (row / TILE) * blocks * block_bytes;
  float total = 0.0f;
  for (uint b = 0; b < blocks; ++b, block += block_bytes) {
    device const half *factors = (device const half *)(block + code_bytes);
    const float factor = (float)factors[lane];
    for (uint part = 0; part < BLOCK_GROUP / GROUP; ++part) {
      const uint group = b * (BLOCK_GROUP / GROUP) + part;
      device const char *own = values + token * inputs + group * GROUP;
      const int sum = sums[token * groups + group];
      int dot = -OFFSET * sum;
      for (uint four = 0; four < GROUP / 4; ++four) {
        // 64 bytes hold 4 inputs of 16 rows; with 4 bits, the next 4 inputs lie in the high halves.
        const uint at = part * (GROUP / 4) + four;
        device const uchar *codes = block + (BITS == 4 ? at / 2 : at) * 64 + 4 * lane;
        for (uint k = 0; k < 4; ++k) {
          const int code = BITS == 4 ? (codes[k] >> (4 * (at % 2))) & 15 : codes[k];
          dot += code * own[four * 4 + k];
        }
      }
      const float scale = scales[token * groups + group];
      total = fma((float)dot, factor * scale, total);
      if (MINIMUM) total = fma((float)factors[TILE + lane], scale * (float)sum, total);
    }
  }
  return total;
}

#define GEM_PRODUCT(NAME, BITS, OFFSET, MINIMUM, BLOCK_GROUP)                                         \
  kernel void NAME(device const char *values [[buffer(0)]], device const float *scales [[buffer(1)]], \
                   device const int *sums [[buffer(2)]], device const uchar *packed [[buffer(3)]],    \
                   device float *y [[buffer(4)]], constant gem_sizes &sizes [[buffer(5)]],            \
                   uint2 at [[thread_position_in_grid]]) {                                            \
    if (at.x >= sizes.outputs || at.y >= sizes.tokens) return;                                        \
    y[at.y * sizes.outputs + at.x] = gem_product<BITS, OFFSET, MINIMUM, BLOCK_GROUP>(                 \
        values, scales, sums, packed, sizes.inputs, at.y, at.x);                                      \
  }

GEM_PRODUCT(gem_qlinear_q4a_g32, 4, 0, true, 32)
GEM_PRODUCT(gem_qlinear_q4a_g64, 4, 0, true, 64)
GEM_PRODUCT(gem_qlinear_q4s_g32, 4, 8, false, 32)
GEM_PRODUCT(gem_qlinear_q8_g32, 8, 128, false, 32)
