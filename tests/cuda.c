/* A libcuda.so.1 and libcudart.so.13 without a GPU behind them: the host's memory is the GPU's, and
 * kernels are counted, not run. HWBENCH_CUDA_LOG names a file that learns what was asked. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void said(const char *what, const char *name) {
    const char *path = getenv("HWBENCH_CUDA_LOG");
    FILE *file = path ? fopen(path, "a") : 0;
    if (file) fprintf(file, "%s %s\n", what, name), fclose(file);
}

/* the driver */
int cuModuleLoadData(void **module, const char *image) {
    *module = (void *)1;
    said("load", memcmp(image, "\177ELF", 4) ? "something else" : "ELF");
    return 0;
}
int cuModuleUnload(void *module) { return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = strdup(name);
    return 0;
}
int cuFuncSetAttribute(void *function, int which, int value) { return 0; }
int cuLaunchKernelEx(const void *how, void *function, void **arguments, void **extra) {
    said("launch", function);
    return 0;
}
int cuTensorMapEncodeTiled(void) { return 1; }
int cuGetErrorName(int status, const char **out) { return *out = "an error", 0; }
int cuGetErrorString(int status, const char **out) { return *out = "an error", 0; }
int cuDeviceGetName(char *out, int size, int device) { return snprintf(out, size, "none"), 0; }

/* the runtime */
int cudaGetDeviceCount(int *count) { return *count = 1, 0; }
int cudaGetDevice(int *device) { return *device = 0, 0; }
int cudaSetDevice(int device) { return 0; }
int cudaGetDeviceProperties(void *out, int device) { return 0; }
int cudaDeviceGetAttribute(int *value, int which, int device) { return *value = 32, 0; }
int cudaMemGetInfo(size_t *unused, size_t *total) { return *unused = *total = 1ul << 34, 0; }
int cudaMalloc(void **out, size_t size) { return posix_memalign(out, 256, size + 1); }
int cudaMallocHost(void **out, size_t size) { return posix_memalign(out, 256, size + 1); }
int cudaFree(void *at) { return free(at), 0; }
int cudaFreeHost(void *at) { return free(at), 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    return memcpy(to, from, size), 0;
}
int cudaMemcpyPeerAsync(void *to, int a, const void *from, int b, size_t size, void *stream) {
    return memcpy(to, from, size), 0;
}
int cudaStreamCreate(void **out) { return *out = 0, 0; }
int cudaStreamCreateWithFlags(void **out, unsigned flags) { return *out = malloc(8), flags != 1; }
int cudaStreamDestroy(void *stream) { return 0; }
int cudaStreamSynchronize(void *stream) { return 0; }
int cudaStreamWaitEvent(void *stream, void *event, unsigned flags) { return 0; }
int cudaStreamBeginCapture(void *stream, int mode) { return 1; }
int cudaStreamEndCapture(void *stream, void **graph) { return 1; }
int cudaGraphDestroy(void *graph) { return 0; }
int cudaGraphExecDestroy(void *graph) { return 0; }
int cudaGraphInstantiate(void **out, void *graph, unsigned long long flags) { return 1; }
int cudaGraphLaunch(void *graph, void *stream) { return 1; }
int cudaEventCreate(void **out) { return *out = malloc(8), 0; }
int cudaEventDestroy(void *event) { return free(event), 0; }
int cudaEventRecord(void *event, void *stream) { return said("record", "event"), 0; }
int cudaEventSynchronize(void *event) { return 0; }
int cudaEventElapsedTime(float *out, void *start, void *end) { return *out = 1.5f, 0; }
int cudaGetLastError(void) { return 0; }
int cudaPeekAtLastError(void) { return 0; }
const char *cudaGetErrorName(int status) { return "an error"; }
const char *cudaGetErrorString(int status) { return "an error"; }
