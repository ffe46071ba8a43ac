/* main FUNCTION KIND,SIZE,...: calls a function of layer.so without TVM's runtime. Argument N is
   N.bin, of kind f, i (32 bits) or s (16 bits) and of these sizes; the last one is written to y.bin. */
#include <dlfcn.h>
#include <dlpack/dlpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

#define MOST 24
#define DEEPEST 8

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < count; ++i) fputs(parts[i], stderr);
  fputs("\n", stderr);
}

static void *allocate(int32_t type, int32_t id, uint64_t size, int32_t code, int32_t bits) {
  void *memory = NULL;
  return posix_memalign(&memory, 64, size) ? NULL : memory;
}

static int release(int32_t type, int32_t id, void *memory) {
  free(memory);
  return 0;
}

static void *contents(int number, size_t *bytes) {
  char name[32];
  void *memory = NULL;
  snprintf(name, sizeof name, "%d.bin", number);
  FILE *file = fopen(name, "rb");
  if (!file) exit(3);
  fseek(file, 0, SEEK_END);
  *bytes = ftell(file);
  rewind(file);
  if (posix_memalign(&memory, 64, *bytes + 64)) exit(4);
  if (fread(memory, 1, *bytes, file) != *bytes) exit(5);
  fclose(file);
  return memory;
}

int main(int argc, char **argv) {
  static DLTensor tensors[MOST];
  static int64_t shapes[MOST][DEEPEST], strides[MOST][DEEPEST];
  TVMFFIAny arguments[MOST], result;
  size_t bytes = 0;
  char symbol[200];
  int count = argc - 2;
  void *library = dlopen("./layer.so", RTLD_NOW);
  if (!library || count > MOST) {
    fprintf(stderr, "%s\n", library ? "too many arguments" : dlerror());
    return 1;
  }
  void **slot = dlsym(library, "__TVMBackendAllocWorkspace");
  if (slot) *slot = (void *)allocate;
  slot = dlsym(library, "__TVMBackendFreeWorkspace");
  if (slot) *slot = (void *)release;
  memset(arguments, 0, sizeof arguments);
  memset(&result, 0, sizeof result);
  for (int i = 0; i < count; ++i) {
    tensors[i].data = contents(i, &bytes);
    tensors[i].device.device_type = kDLCPU;
    int depth = 0;
    for (char *at = strchr(argv[i + 2], ','); at && depth < DEEPEST; at = strchr(at, ','))
      shapes[i][depth++] = strtoll(++at, &at, 10);
    for (int64_t d = depth - 1, step = 1; d >= 0; step *= shapes[i][d--]) strides[i][d] = step;
    tensors[i].ndim = depth;
    tensors[i].shape = shapes[i];
    tensors[i].strides = strides[i];
    tensors[i].dtype.code = argv[i + 2][0] == 'f' ? kDLFloat : kDLInt;
    tensors[i].dtype.bits = argv[i + 2][0] == 's' ? 16 : 32;
    tensors[i].dtype.lanes = 1;
    arguments[i].type_index = kTVMFFIDLTensorPtr;
    arguments[i].v_ptr = &tensors[i];
  }
  snprintf(symbol, sizeof symbol, "__tvm_ffi_%s", argv[1]);
  TVMFFISafeCallType layer = (TVMFFISafeCallType)dlsym(library, symbol);
  if (!layer || layer(0, arguments, count, &result)) return 2;
  FILE *file = fopen("y.bin", "wb");
  if (fwrite(tensors[count - 1].data, 1, bytes, file) != bytes) return 6;
  return fclose(file);
}
