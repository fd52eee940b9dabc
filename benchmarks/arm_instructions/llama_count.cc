// Reads PREFILL tokens and generates DECODE with llama.cpp: what `gem-runner count` does with GEM.
//
//   llama-count MODEL PREFILL DECODE

#include <llama.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

int main(int count, char** words) {
  if (count != 4) {
    std::fprintf(stderr, "usage: %s MODEL PREFILL DECODE\n", words[0]);
    return 2;
  }
  const int prefill = std::atoi(words[2]), decode = std::atoi(words[3]);
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_backend_init();
  llama_model* model = llama_model_load_from_file(words[1], llama_model_default_params());
  if (model == nullptr) return 1;
  llama_context_params settings = llama_context_default_params();
  settings.n_ctx = 512;
  settings.n_batch = settings.n_ubatch = 128;
  settings.n_threads = settings.n_threads_batch = 1;
  llama_context* context = llama_init_from_model(model, settings);
  if (context == nullptr) return 1;
  const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
  std::vector<llama_token> ids;
  for (int i = 0; i < prefill; ++i) ids.push_back((i * 7919 + 11) % vocabulary);
  int next = 1;
  for (int i = ids.empty() ? 1 : 0; i <= decode; ++i) {
    if (i > 0) ids = {next};
    if (llama_decode(context, llama_batch_get_one(ids.data(), int(ids.size()))) != 0) return 1;
    const float* logits = llama_get_logits_ith(context, -1);
    next = 0;
    for (int id = 1; id < vocabulary; ++id) {
      if (logits[id] > logits[next]) next = id;
    }
  }
  std::printf("%d\n", next);
  return 0;
}
