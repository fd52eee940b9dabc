// A pass of one token is the same calls with the same arguments every time; only what lies in memory
// changes. So they are noted once, while TVM's virtual machine makes them, and then made again without it:
// no allocation, no shapes, no lookups. Linked into every library.

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

// What tvm/ffi/c_api.h calls TVMFFIAny, and the kinds of it that occur here.
struct Any {
  int32_t kind;
  int32_t size;  // of a short text
  int64_t value;
};
constexpr int32_t kInt = 1, kBool = 2, kRawText = 8, kShortText = 11, kObject = 64, kText = 65;
constexpr int kHeader = 24;  // bytes that every object begins with

struct TextBytes {
  const char* data;
  size_t size;
};

typedef int (*Code)(void* self, const Any* arguments, int32_t count, Any* result);

struct Call {
  Code code;
  std::vector<Any> arguments;
};

struct Plan {
  std::vector<Call> calls;
  std::unordered_map<std::string, Code> known;
  void* library = nullptr;
  bool whole = true;
};

Plan* capturing = nullptr;

// What the virtual machine does around the kernels, which needs no repetition: it makes room, and
// checks what does not change. Anything else may decide something anew with every token.
const char* const kFixed[] = {
    "alloc_shape_heap", "alloc_storage", "alloc_tensor", "check_shape_info", "check_tensor_info",
    "check_tuple_info", "copy",          "make_shape",   "make_tuple",       "match_prim_value",
    "match_shape",      "null_value",    "reshape",      "shape_of",         "tuple_getitem",
};
constexpr char kBuiltin[] = "vm.builtin.";

bool IsFixed(const std::string& name) {
  for (const char* fixed : kFixed) {
    if (name.compare(sizeof(kBuiltin) - 1, std::string::npos, fixed) == 0) return true;
  }
  return false;
}

std::string Text(const Any& any) {
  if (any.kind == kShortText) return std::string(reinterpret_cast<const char*>(&any.value), any.size);
  if (any.kind == kRawText) return reinterpret_cast<const char*>(any.value);
  if (any.kind != kText) return "";
  const TextBytes* text = reinterpret_cast<const TextBytes*>(any.value + kHeader);
  return std::string(text->data, text->size);
}

Code CodeOf(Plan* plan, const std::string& name) {
  auto found = plan->known.find(name);
  if (found != plan->known.end()) return found->second;
  void* symbol = dlsym(plan->library, ("__tvm_ffi_" + name).c_str());
  return plan->known[name] = reinterpret_cast<Code>(symbol);
}

int64_t Now() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

}  // namespace

extern "C" {

int TVMFFIObjectIncRef(void* object);
int TVMFFIObjectDecRef(void* object);

// The instrument, as a packed function of TVM: (function, name, whether before, result, arguments...).
// It leaves its result as it is: none.
int __tvm_ffi_gem_capture(void*, const Any* given, int32_t count, Any*) {
  Plan* plan = capturing;
  if (plan == nullptr || count < 4) return 0;
  const bool before = (given[2].kind == kBool || given[2].kind == kInt) && given[2].value != 0;
  if (!before) return 0;
  const std::string name = Text(given[1]);
  if (name.compare(0, sizeof(kBuiltin) - 1, kBuiltin) == 0) {
    plan->whole = plan->whole && IsFixed(name);
    return 0;
  }
  Call call{CodeOf(plan, name), std::vector<Any>(given + 4, given + count)};
  if (call.code == nullptr) {
    plan->whole = false;
    return 0;
  }
  // Held, so that nothing else is put where the kernels will write.
  for (const Any& any : call.arguments) {
    if (any.kind >= kObject) TVMFFIObjectIncRef(reinterpret_cast<void*>(any.value));
  }
  plan->calls.push_back(std::move(call));
  return 0;
}

// Note the calls that follow, in a plan that must be given back; null where that cannot be.
void* gem_begin_capture() {
  Dl_info here;
  if (dladdr(reinterpret_cast<void*>(&__tvm_ffi_gem_capture), &here) == 0) return nullptr;
  capturing = new Plan;
  capturing->library = dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  return capturing;
}

// How many calls were noted; -1 where the pass did something that cannot be repeated this way.
int64_t gem_end_capture() {
  Plan* plan = capturing;
  capturing = nullptr;
  return plan != nullptr && plan->whole ? int64_t(plan->calls.size()) : -1;
}

// Make the calls of a plan again. `times`, if it is not null, gets one more number than there are
// calls: the nanoseconds before each and after the last. The error of a kernel is raised in TVM's way.
int gem_replay(void* handle, int64_t* times) {
  for (const Call& call : static_cast<Plan*>(handle)->calls) {
    if (times != nullptr) *times++ = Now();
    Any result{};
    if (call.code(nullptr, call.arguments.data(), int32_t(call.arguments.size()), &result) != 0) {
      return -1;
    }
  }
  if (times != nullptr) *times = Now();
  return 0;
}

void gem_free_plan(void* handle) {
  Plan* plan = static_cast<Plan*>(handle);
  for (const Call& call : plan->calls) {
    for (const Any& any : call.arguments) {
      if (any.kind >= kObject) TVMFFIObjectDecRef(reinterpret_cast<void*>(any.value));
    }
  }
  if (plan->library != nullptr) dlclose(plan->library);
  delete plan;
}

}  // extern "C"
