// Runs a compiled model on a board that has nothing but TVM's two runtime libraries: no Python, no tokenizer.
//
//   gem-runner serve PLAN DESCRIPTOR           answers requests on stdin; see gemcore/runtime/process_executor.py
//   gem-runner generate PLAN COUNT ID...       continues these tokens by at most COUNT, the likeliest each time,
//                                              and prints each as soon as it is known
//   gem-runner count PLAN PREFILL DECODE       reads PREFILL tokens and generates DECODE, for counting instructions
//
// What a plan is, is said in gemcore/runtime/plan.py.

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace ffi = tvm::ffi;

namespace {

constexpr int kAlignment = 64, kBlock = 16, kFields = 5;


[[noreturn]] void Fail(const std::string& sentence) { throw std::runtime_error(sentence); }

struct Kind {
  DLDataType type;
  size_t bytes;
};

Kind KindOf(const std::string& name) {
  if (name == "float32") return {{kDLFloat, 32, 1}, 4};
  if (name == "float16") return {{kDLFloat, 16, 1}, 2};
  if (name == "int32") return {{kDLInt, 32, 1}, 4};
  if (name == "uint8") return {{kDLUInt, 8, 1}, 1};
  Fail("the plan names the unknown type " + name);
}

size_t Product(const std::vector<int64_t>& sizes) {
  size_t total = 1;
  for (int64_t size : sizes) total *= size_t(size);
  return total;
}

// Memory that belongs to somebody else, or to the tensor.
struct Given {
  void* at;
  void AllocData(DLTensor* tensor) { tensor->data = at; }
  void FreeData(DLTensor*) {}
};
struct Own {
  void AllocData(DLTensor* tensor) {
    size_t bytes = (ffi::GetDataSize(*tensor) + kAlignment) / kAlignment * kAlignment;
    tensor->data = std::aligned_alloc(kAlignment, bytes);
    std::memset(tensor->data, 0, bytes);
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

ffi::Tensor TensorAt(void* at, const std::vector<int64_t>& sizes, DLDataType type) {
  return ffi::Tensor::FromNDAlloc(Given{at}, ffi::Shape(sizes), type, DLDevice{kDLCPU, 0});
}
ffi::Tensor NewTensor(const std::vector<int64_t>& sizes, DLDataType type) {
  return ffi::Tensor::FromNDAlloc(Own{}, ffi::Shape(sizes), type, DLDevice{kDLCPU, 0});
}

constexpr DLDataType kInt32{kDLInt, 32, 1}, kFloat32{kDLFloat, 32, 1};

// A whole file, mapped for reading; writes would stay in this process.
struct Mapped {
  char* data = nullptr;
  size_t size = 0;
  explicit Mapped(const std::string& path) {
    int file = open(path.c_str(), O_RDONLY);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0) Fail("cannot read " + path);
    size = size_t(status.st_size);
    void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    close(file);
    if (at == MAP_FAILED) Fail("cannot map " + path);
    data = static_cast<char*>(at);
  }
};

struct Plan {
  std::string library, weights;
  int threads = 1, layers = 0, vocabulary = 0, experts = 0, prior = 0, encoder = 0;
  Kind cache{};
  std::vector<int64_t> keys, values;
  std::vector<int> stop;
  struct Weight {
    Kind kind;
    size_t offset;
    std::vector<int64_t> sizes;
  };
  std::vector<Weight> each;
};

std::vector<int64_t> Sizes(std::istream& words) {
  int rank = 0;
  if (!(words >> rank) || rank < 0 || rank > 8) Fail("the plan is damaged");
  std::vector<int64_t> sizes(rank);
  for (int64_t& size : sizes) {
    if (!(words >> size) || size < 0) Fail("the plan is damaged");
  }
  return sizes;
}

Plan ReadPlan(const std::string& path) {
  std::ifstream file(path);
  std::string line, word, kind;
  if (!std::getline(file, line) || line != "gem-plan 1") Fail(path + " is no plan of this version");
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : path.substr(0, slash + 1);
  auto rest = [&](std::istream& words) {
    std::string text;
    std::getline(words >> std::ws, text);
    return text.empty() || text[0] == '/' ? text : folder + text;
  };
  Plan plan;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    words >> word;
    if (word == "end") return plan;
    if (word == "library") plan.library = rest(words);
    else if (word == "weights") plan.weights = rest(words);
    else if (word == "threads") words >> plan.threads;
    else if (word == "layers") words >> plan.layers;
    else if (word == "vocabulary") words >> plan.vocabulary;
    else if (word == "experts") words >> plan.experts;
    else if (word == "prior") words >> plan.prior;
    else if (word == "encoder") words >> plan.encoder;
    else if (word == "stop") for (int id; words >> id;) plan.stop.push_back(id);
    else if (word == "cache") {
      words >> kind;
      plan.cache = KindOf(kind);
      plan.keys = Sizes(words);
      plan.values = Sizes(words);
    } else if (word == "weight") {
      Plan::Weight weight;
      words >> kind >> weight.offset;
      weight.kind = KindOf(kind);
      weight.sizes = Sizes(words);
      plan.each.push_back(weight);
    }
  }
  Fail(path + " has no end");
}

// The library's own functions; see gemcore/compiler/native.
struct Native {
  int (*use_threads)(int);
  void* (*begin_capture)();
  int64_t (*end_capture)();
  int (*replay)(void*, int64_t*);
  void (*free_plan)(void*);
  explicit Native(const std::string& library) {
    void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) Fail(dlerror());
    Find(handle, "gem_use_threads", &use_threads);
    Find(handle, "gem_begin_capture", &begin_capture);
    Find(handle, "gem_end_capture", &end_capture);
    Find(handle, "gem_replay", &replay);
    Find(handle, "gem_free_plan", &free_plan);
  }
  template <typename F>
  static void Find(void* handle, const char* name, F* function) {
    *function = reinterpret_cast<F>(dlsym(handle, name));
    if (*function == nullptr) Fail(std::string("the model has no function ") + name);
  }
};

struct Cache {
  std::vector<ffi::Tensor> tensors;
  ffi::Array<ffi::Tensor> bound;
  // A pass of one token, noted; and the places that its inputs lie in.
  void* noted = nullptr;
  bool tried = false;
  std::vector<ffi::Tensor> one;
  ffi::Tensor result;
};

class Model {
 public:
  explicit Model(const Plan& plan)
      : plan_(plan), file_(plan.weights), module_(ffi::Module::LoadFromFile(plan.library)),
        native_(plan.library) {
    if (native_.use_threads(plan.threads) != 0) Fail("the number of threads is not possible");
    for (const Plan::Weight& weight : plan.each) {
      const size_t bytes = Product(weight.sizes) * weight.kind.bytes;
      if (weight.offset > file_.size || bytes > file_.size - weight.offset) {
        Fail("the file of the weights is too short");
      }
      char* at = file_.data + weight.offset;
      if (reinterpret_cast<uintptr_t>(at) % kAlignment == 0) {
        weights_.push_back(TensorAt(at, weight.sizes, weight.kind.type));
        continue;
      }
      weights_.push_back(NewTensor(weight.sizes, weight.kind.type));
      std::memcpy(weights_.back().data_ptr(), at, bytes);
    }
  }

  const Plan& plan() const { return plan_; }

  void Bind(Cache* cache, std::vector<ffi::Tensor> tensors) {
    Forget(cache);
    cache->tensors = std::move(tensors);
    std::vector<ffi::Tensor> all = cache->tensors;
    all.insert(all.end(), weights_.begin(), weights_.end());
    cache->bound = ffi::Array<ffi::Tensor>(all.begin(), all.end());
  }

  void Forget(Cache* cache) {
    if (cache->noted != nullptr) native_.free_plan(cache->noted);
    cache->noted = nullptr;
    cache->tried = false;
    cache->one.clear();
  }

  // One pass: the inputs are in the order of the code's own.
  ffi::Tensor Forward(Cache* cache, const std::vector<ffi::Tensor>& inputs) {
    const bool single = inputs[0].size(0) == 1 && inputs[2].size(0) == 1;
    if (!single) return Call(inputs[0].size(0) == 1 ? Decode() : Prefill(), inputs, cache);
    if (!cache->tried) {
      cache->tried = true;
      for (const ffi::Tensor& input : inputs) {
        cache->one.push_back(NewTensor({input.shape().begin(), input.shape().end()}, input.dtype()));
      }
      Copy(inputs, cache->one);
      const ffi::Function& decode = Decode();
      void* noted = native_.begin_capture();
      cache->result = Call(decode, cache->one, cache);
      const int64_t calls = native_.end_capture();
      if (noted != nullptr && calls >= 0) cache->noted = noted;
      return cache->result;
    }
    Copy(inputs, cache->one);
    if (cache->noted == nullptr) return Call(Decode(), cache->one, cache);
    if (native_.replay(cache->noted, nullptr) != 0) {
      throw ffi::details::MoveFromSafeCallRaised();
    }
    return cache->result;
  }

  ffi::Tensor Other(const char* name, Cache* cache, const std::vector<ffi::Tensor>& inputs) {
    auto found = others_.find(name);
    if (found == others_.end()) found = others_.emplace(name, Load(name, false, false)).first;
    return Call(found->second, inputs, cache);
  }

 private:
  static void Copy(const std::vector<ffi::Tensor>& from, const std::vector<ffi::Tensor>& to) {
    for (size_t i = 0; i < from.size(); ++i) {
      std::memcpy(to[i].data_ptr(), from[i].data_ptr(), ffi::GetDataSize(*from[i].GetDLTensorPtr()));
    }
  }

  static ffi::Tensor Call(
      const ffi::Function& function, const std::vector<ffi::Tensor>& inputs, Cache* cache) {
    std::vector<ffi::AnyView> arguments(inputs.begin(), inputs.end());
    arguments.push_back(cache->bound);
    ffi::Any result;
    function.CallPacked(arguments.data(), int32_t(arguments.size()), &result);
    return result.cast<ffi::Tensor>();
  }

  ffi::Function Load(const char* name, bool pooled, bool noting) {
    auto machine = module_->GetFunction("vm_load_executable").value()().cast<ffi::Module>();
    machine->GetFunction("vm_initialization").value()(int(kDLCPU), 0, pooled ? 2 : 1);
    if (noting) {
      auto instrument = module_->GetFunction("gem_capture", true).value();
      machine->GetFunction("set_instrument").value()(instrument);
    }
    auto function = machine->GetFunction(name);
    if (!function.has_value()) Fail(std::string("the model has no function ") + name);
    return function.value();
  }

  const ffi::Function& Decode() {
    if (decode_ == nullptr) decode_ = Load("forward", true, true);
    return decode_;
  }
  const ffi::Function& Prefill() {
    if (prefill_ == nullptr) prefill_ = Load("forward", false, false);
    return prefill_;
  }

  Plan plan_;
  Mapped file_;
  ffi::Module module_;
  Native native_;
  std::vector<ffi::Tensor> weights_;
  ffi::Function decode_{nullptr}, prefill_{nullptr};
  std::map<std::string, ffi::Function> others_;
};

// Requests

bool Read(void* into, size_t bytes) { return std::fread(into, 1, bytes, stdin) == bytes; }

void Answer(int32_t status, const void* data, int64_t bytes) {
  int32_t head[2] = {status, 0};
  std::fwrite(head, 4, 2, stdout);
  std::fwrite(&bytes, 8, 1, stdout);
  std::fwrite(data, 1, size_t(bytes), stdout);
  std::fflush(stdout);
}

void AnswerTensor(const ffi::Tensor& tensor) {
  Answer(0, tensor.data_ptr(), int64_t(ffi::GetDataSize(*tensor.GetDLTensorPtr())));
}

ffi::Tensor ReadTensor(const std::vector<int64_t>& sizes, DLDataType type) {
  ffi::Tensor tensor = NewTensor(sizes, type);
  if (!Read(tensor.data_ptr(), ffi::GetDataSize(*tensor.GetDLTensorPtr()))) Fail("a request ended early");
  return tensor;
}

std::vector<ffi::Tensor> ReadCache(const Plan& plan, int count, int descriptor) {
  std::vector<ffi::Tensor> tensors;
  for (int i = 0; i < count; ++i) {
    int64_t given[6];
    if (!Read(given, sizeof(given)) || given[1] < 1 || given[1] > 4) Fail("a request is damaged");
    const std::vector<int64_t> sizes(given + 2, given + 2 + given[1]);
    const size_t bytes = Product(sizes) * plan.cache.bytes;
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, off_t(given[0]));
    if (at == MAP_FAILED) Fail("the shared memory cannot be mapped");
    tensors.push_back(TensorAt(at, sizes, plan.cache.type));
  }
  return tensors;
}

void Release(Cache* cache) {
  for (const ffi::Tensor& tensor : cache->tensors) {
    munmap(tensor.data_ptr(), ffi::GetDataSize(*tensor.GetDLTensorPtr()));
  }
}

int Serve(Model* model, int descriptor) {
  std::map<int, Cache> caches;
  const Plan& plan = model->plan();
  int32_t request[4];
  while (Read(request, sizeof(request))) {
    const int64_t tokens = request[2], rows = request[3];
    Cache* cache = &caches[request[1]];
    try {
      std::vector<ffi::Tensor> inputs;
      if (request[0] == 1) {
        std::vector<ffi::Tensor> tensors = ReadCache(plan, int(tokens), descriptor);
        Release(cache);
        model->Bind(cache, std::move(tensors));
        Answer(0, "", 0);
        continue;
      }
      if (request[0] == 5) {
        Release(cache);
        model->Forget(cache);
        caches.erase(request[1]);
        continue;
      }
      inputs.push_back(ReadTensor({tokens}, kInt32));
      inputs.push_back(ReadTensor({tokens, kFields}, kInt32));
      if (request[0] == 2) inputs.push_back(ReadTensor({rows}, kInt32));
      if (request[0] != 3 && plan.experts > 0) {
        inputs.push_back(ReadTensor({tokens, plan.experts}, kFloat32));
      }
      if (request[0] == 2) AnswerTensor(model->Forward(cache, inputs));
      else AnswerTensor(model->Other(request[0] == 3 ? "prior" : "routes", cache, inputs));
    } catch (const std::exception& error) {
      const std::string sentence = error.what();
      Answer(1, sentence.data(), int64_t(sentence.size()));
    }
  }
  return 0;
}

// Without anybody's requests

std::vector<ffi::Tensor> OwnCache(const Plan& plan, int64_t positions) {
  const int64_t blocks = (positions + kBlock - 1) / kBlock;
  std::vector<ffi::Tensor> tensors;
  for (int i = 0; i < 2 * plan.layers; ++i) {
    std::vector<int64_t> sizes = i % 2 == 0 ? plan.keys : plan.values;
    sizes[1] *= blocks;
    tensors.push_back(NewTensor(sizes, plan.cache.type));
  }
  return tensors;
}

class Text {
 public:
  Text(Model* model, int64_t positions) : model_(model) {
    model->Bind(&cache_, OwnCache(model->plan(), positions));
    model->Bind(&aside_, OwnCache(model->plan(), positions));
  }

  // Ask once for the prior of a prompt, where the model has experts.
  void UsePrompt(const std::vector<int>& ids) {
    const Plan& plan = model_->plan();
    prior_.assign(plan.experts, 0.0f);
    if (plan.experts == 0 || plan.prior == 0 || plan.encoder) return;
    // The network reads the beginning of a long prompt.
    const size_t count = std::min(ids.size(), size_t(plan.prior));
    const std::vector<int> read(ids.begin(), ids.begin() + count);
    ffi::Tensor said = model_->Other("prior", &aside_, {Ids(read), Placement(0, count)});
    std::memcpy(prior_.data(), said.data_ptr(), 4 * prior_.size());
  }

  // The likeliest next token after `ids`, which continue the text.
  int Feed(const std::vector<int>& ids) {
    const Plan& plan = model_->plan();
    const size_t count = ids.size();
    std::vector<ffi::Tensor> inputs{Ids(ids), Placement(length_, count), Ids({int(count) - 1})};
    if (plan.experts > 0) {
      inputs.push_back(NewTensor({int64_t(count), plan.experts}, kFloat32));
      for (size_t i = 0; i < count; ++i) {
        float* at = static_cast<float*>(inputs.back().data_ptr()) + i * prior_.size();
        std::memcpy(at, prior_.data(), 4 * prior_.size());
      }
    }
    length_ += count;
    const ffi::Tensor logits = model_->Forward(&cache_, inputs);
    const float* first = static_cast<const float*>(logits.data_ptr());
    return int(std::max_element(first, first + plan.vocabulary) - first);
  }

 private:
  static ffi::Tensor Ids(const std::vector<int>& ids) {
    ffi::Tensor tensor = NewTensor({int64_t(ids.size())}, kInt32);
    std::memcpy(tensor.data_ptr(), ids.data(), 4 * ids.size());
    return tensor;
  }
  static ffi::Tensor Placement(size_t start, size_t count) {
    ffi::Tensor tensor = NewTensor({int64_t(count), kFields}, kInt32);
    int32_t* row = static_cast<int32_t*>(tensor.data_ptr());
    for (size_t i = 0; i < count; ++i, row += kFields) row[0] = row[1] = int32_t(start + i);
    return tensor;
  }

  Model* model_;
  Cache cache_, aside_;
  size_t length_ = 0;
  std::vector<float> prior_;
};

void CheckIds(const Plan& plan, const std::vector<int>& ids) {
  if (ids.empty()) Fail("there are no tokens to continue");
  for (int id : ids) {
    if (id < 0 || id >= plan.vocabulary) Fail("token " + std::to_string(id) + " is not in the vocabulary");
  }
}

int Generate(Model* model, std::vector<int> ids, int count) {
  CheckIds(model->plan(), ids);
  Text text(model, int64_t(ids.size()) + count);
  text.UsePrompt(ids);
  for (int i = 0; i < count; ++i) {
    ids = {text.Feed(ids)};
    const std::vector<int>& stop = model->plan().stop;
    if (std::find(stop.begin(), stop.end(), ids[0]) != stop.end()) break;
    std::printf("%d\n", ids[0]);
    std::fflush(stdout);
  }
  return 0;
}

int Count(Model* model, int prefill, int decode) {
  std::vector<int> ids;
  for (int i = 0; i < prefill; ++i) ids.push_back((i * 7919 + 11) % model->plan().vocabulary);
  Text text(model, prefill + decode + 1);
  text.UsePrompt(ids);
  int next = prefill > 0 ? text.Feed(ids) : 1;
  for (int i = 0; i < decode; ++i) next = text.Feed({next});
  std::printf("%d\n", next);
  return 0;
}

int Main(int count, char** words) {
  const std::string what = count > 2 ? words[1] : "";
  const bool known = (what == "serve" && count == 4) || (what == "generate" && count > 4) ||
                     (what == "count" && count == 5);
  if (!known) {
    std::fprintf(stderr,
                 "usage: %s serve PLAN DESCRIPTOR | generate PLAN COUNT ID... | count PLAN PREFILL DECODE\n",
                 words[0]);
    return 2;
  }
  Model model(ReadPlan(words[2]));
  if (what == "serve") return Serve(&model, std::atoi(words[3]));
  if (what == "count") return Count(&model, std::atoi(words[3]), std::atoi(words[4]));
  std::vector<int> ids;
  for (int i = 4; i < count; ++i) ids.push_back(std::atoi(words[i]));
  return Generate(&model, ids, std::atoi(words[3]));
}

}  // namespace

int main(int count, char** words) {
  try {
    return Main(count, words);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", words[0], error.what());
    return 1;
  }
}
