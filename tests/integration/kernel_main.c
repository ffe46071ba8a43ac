/* Loads layer.so without TVM's runtime, feeds it N.bin and writes the last argument to y.bin. */
#include <dlfcn.h>
#include <dlpack/dlpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

#define MOST 24

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
  static int64_t shapes[MOST], one = 1;
  TVMFFIAny arguments[MOST], result;
  size_t bytes = 0;
  int count = strlen(argv[1]);
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
    tensors[i].ndim = 1;
    shapes[i] = bytes / 4;
    tensors[i].shape = &shapes[i];
    tensors[i].strides = &one;
    tensors[i].dtype.code = argv[1][i] == 'f' ? kDLFloat : kDLInt;
    tensors[i].dtype.bits = 32;
    tensors[i].dtype.lanes = 1;
    arguments[i].type_index = kTVMFFIDLTensorPtr;
    arguments[i].v_ptr = &tensors[i];
  }
  TVMFFISafeCallType layer = (TVMFFISafeCallType)dlsym(library, "__tvm_ffi_layer");
  if (!layer || layer(0, arguments, count, &result)) return 2;
  FILE *file = fopen("y.bin", "wb");
  if (fwrite(tensors[count - 1].data, 1, bytes, file) != bytes) return 6;
  return fclose(file);
}
