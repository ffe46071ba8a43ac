/* A libnvidia-ml.so.1 that plays a recorded trace: the tests' GPU. Layouts are those of nvml.h.
 * HWBENCH_TRACE names a file of lines "key value ..."; a line "clock 1980 900" plays one figure a
 * call, the last one on and on. Without the file there is no driver. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long ull;
typedef struct { ull total, free, used; } Memory;
typedef struct { unsigned pid; ull memory; unsigned gpu, compute; } Process;

static int calls_of_clock, calls_of_energy, calls_of_slowed;

static int text(const char *key, char *out, unsigned size) {
    char line[512], name[64];
    FILE *file = fopen(getenv("HWBENCH_TRACE") ? getenv("HWBENCH_TRACE") : "", "r");
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        int used = 0;
        if (sscanf(line, "%63s %n", name, &used) == 1 && !strcmp(name, key)) {
            line[strcspn(line, "\n")] = 0;
            snprintf(out, size, "%s", line + used);
            fclose(file);
            return 1;
        }
    }
    fclose(file);
    return 0;
}

static ull figure(const char *key, int place, ull otherwise) {
    char line[512], *at = line;
    if (!text(key, line, sizeof line)) return otherwise;
    ull found = strtoull(at, &at, 0);
    for (; place > 0; place--) {
        char *end;
        ull next = strtoull(at, &end, 0);
        if (end == at) break;
        found = next, at = end;
    }
    return found;
}

int nvmlInit_v2(void) { char line[512]; return text("name", line, sizeof line) ? 0 : 9; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int status) {
    switch (status) {
    case 3: return "Not Supported";
    case 6: return "Not Found";
    case 9: return "Driver Not Loaded";
    default: return "Unknown Error";
    }
}
int nvmlSystemGetDriverVersion(char *out, unsigned size) { return text("driver", out, size) ? 0 : 3; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = figure("cuda", 0, 13000); return 0; }
int nvmlDeviceGetCudaComputeCapability(void *gpu, int *major, int *minor) {
    *major = figure("capability", 0, 90) / 10, *minor = figure("capability", 0, 90) % 10;
    return 0;
}
int nvmlDeviceGetCount_v2(unsigned *count) { *count = figure("count", 0, 1); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    if (index >= figure("count", 0, 1)) return 6;
    *handle = (void *)(size_t)(index + 1);
    return 0;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    char own[512];
    if (!text("uuid", own, sizeof own) || strcmp(own, uuid)) return 6;
    *handle = (void *)1;
    return 0;
}
int nvmlDeviceGetName(void *gpu, char *out, unsigned size) { return text("name", out, size) ? 0 : 3; }
/* The second GPU is called by "uuid2", as the first by "uuid". */
int nvmlDeviceGetUUID(void *gpu, char *out, unsigned size) {
    if ((size_t)gpu == 2 && text("uuid2", out, size)) return 0;
    return text("uuid", out, size) ? 0 : 3;
}
int nvmlDeviceGetMemoryInfo(void *gpu, Memory *out) {
    out->total = figure("total", 0, 0), out->free = figure("free", 0, 0);
    out->used = out->total - out->free;
    return 0;
}
int nvmlDeviceGetMaxClockInfo(void *gpu, int kind, unsigned *out) {
    return kind == 1 ? (*out = figure("limit", 0, 0), 0) : 3;
}
int nvmlDeviceGetClockInfo(void *gpu, int kind, unsigned *out) {
    return kind == 1 ? (*out = figure("clock", calls_of_clock++, 0), 0) : 3;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *gpu, ull *out) {
    *out = figure("slowed", calls_of_slowed++, 0);
    return 0;
}
int nvmlDeviceGetTemperature(void *gpu, int sensor, unsigned *out) {
    return sensor == 0 ? (*out = figure("celsius", 0, 0), 0) : 3;
}
int nvmlDeviceGetTotalEnergyConsumption(void *gpu, ull *out) {
    *out = figure("millijoules", calls_of_energy++, ~0ull);
    return *out == ~0ull ? 3 : 0;
}
int nvmlDeviceGetMigMode(void *gpu, unsigned *now, unsigned *later) {
    ull mig = figure("mig", 0, 9);
    *now = *later = mig;
    return mig == 9 ? 3 : 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *gpu, unsigned *count, Process *out) {
    unsigned found = figure("processes", 0, 0);
    for (unsigned i = 0; i < found && i < *count; i++)
        out[i].pid = 100 + i, out[i].memory = (ull)(i + 1) << 30, out[i].gpu = out[i].compute = ~0u;
    *count = found;
    return 0;
}
