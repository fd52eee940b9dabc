// Calls llama.cpp's own product of a row of weights with a row of activations, as often as one is told.
//
//   llama-products q4_1|q4_0|q8_0 VALUES ROWS
//
// What lies in the rows does not matter for the number of instructions: zeros do.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void Product(
    int n, float* sum, size_t bs, const void* x, size_t bx, const void* y, size_t by, int rows);
Product ggml_vec_dot_q4_0_q8_0, ggml_vec_dot_q4_1_q8_1, ggml_vec_dot_q8_0_q8_0;

static char weights[1 << 16], activations[1 << 16];

int main(int count, char** words) {
  if (count != 4) return 2;
  Product* product = strcmp(words[1], "q4_0") == 0   ? ggml_vec_dot_q4_0_q8_0
                     : strcmp(words[1], "q4_1") == 0 ? ggml_vec_dot_q4_1_q8_1
                     : strcmp(words[1], "q8_0") == 0 ? ggml_vec_dot_q8_0_q8_0
                                                     : NULL;
  const int values = atoi(words[2]), rows = atoi(words[3]);
  // The largest of these types takes 36 bytes for 32 values.
  if (product == NULL || values <= 0 || values % 32 != 0 || values > 32768) return 2;
  float sum = 0;
  for (int row = 0; row < rows; ++row) product(values, &sum, 0, weights, 0, activations, 0, 1);
  printf("%g\n", sum);
  return 0;
}
