/* A libcuda.so.1 without a GPU, for cuda-python and pycuda themselves to call: whether they take
 * what we hand them, and hand us what we take them for. Work is done at once; in a stream that
 * captures it is kept, and done at each launch of its graph. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK, INVALID_VALUE, OUT_OF_MEMORY, NOT_INITIALIZED, INVALID_CONTEXT = 201, NOT_FOUND = 500 };
enum { NODES = 64 };

typedef struct { void *to; const void *from; size_t size; } Copy;
typedef struct { int count; Copy copies[NODES]; } Graph;
typedef struct { unsigned flags; int capturing; Graph graph; } Stream;
typedef struct { unsigned flags; } Event;

static int initialized, primary, retained;
static __thread int depth;

int cuInit(unsigned flags) { initialized = flags == 0; return flags ? INVALID_VALUE : OK; }
int cuDriverGetVersion(int *version) { *version = 13000; return OK; }
int cuGetErrorName(int error, const char **text) { *text = "CUDA_ERROR_STUB"; return error ? OK : OK; }
int cuGetErrorString(int error, const char **text) { *text = "stub"; return error ? OK : OK; }

#define STARTED if (!initialized) return NOT_INITIALIZED
#define CURRENT STARTED; if (!depth) return INVALID_CONTEXT

int cuDeviceGetCount(int *count) { STARTED; *count = 1; return OK; }
int cuDeviceGet(int *device, int ordinal) { STARTED; *device = ordinal; return OK; }
int cuDeviceGetName(char *name, int length, int device) {
    STARTED;
    snprintf(name, length, "Stub GPU %d", device);
    return OK;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    STARTED;
    *bytes = (size_t)(24 + device) << 30;
    return OK;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    STARTED;
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : device;
    return OK;
}
int cuDeviceComputeCapability(int *major, int *minor, int device) {
    STARTED;
    *major = 8, *minor = 9 + device;
    return OK;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    STARTED;
    retained += 1 + device;
    *context = &primary;
    return OK;
}
int cuDevicePrimaryCtxRelease_v2(int device) { retained -= 1 + device; return OK; }
int cuCtxPushCurrent_v2(void *context) {
    STARTED;
    if (context != &primary) return INVALID_CONTEXT;
    depth++;
    return OK;
}
int cuCtxPopCurrent_v2(void **context) {
    CURRENT;
    depth--;
    *context = &primary;
    return OK;
}
int stubDepth(void) { return depth; }

int cuStreamCreate(void **stream, unsigned flags) {
    CURRENT;
    Stream *made = calloc(1, sizeof *made);
    made->flags = flags;
    *stream = made;
    return OK;
}
unsigned stubFlags(const Stream *of) { return of->flags; } /* of a stream or an event */
int cuStreamDestroy_v2(void *stream) { CURRENT; free(stream); return OK; }

int cuEventCreate(void **event, unsigned flags) {
    CURRENT;
    Event *made = calloc(1, sizeof *made);
    made->flags = flags;
    *event = made;
    return OK;
}
int cuEventDestroy_v2(void *event) { CURRENT; free(event); return OK; }
int cuEventRecord(void *event, void *stream) { CURRENT; return event && stream ? OK : INVALID_VALUE; }
int cuEventSynchronize(void *event) {
    CURRENT;
    usleep(100000); /* long enough for another thread to be seen working */
    return event ? OK : INVALID_VALUE;
}

int cuMemAlloc_v2(unsigned long long *address, size_t size) {
    CURRENT;
    if (!size) return INVALID_VALUE;
    if (size > (size_t)1 << 40) return OUT_OF_MEMORY;
    *address = (uintptr_t)aligned_alloc(256, (size + 255) / 256 * 256);
    return OK;
}
int cuMemFree_v2(unsigned long long address) { CURRENT; free((void *)(uintptr_t)address); return OK; }
int cuMemHostAlloc(void **address, size_t size, unsigned flags) {
    CURRENT;
    *address = flags ? NULL : malloc(size);
    return *address ? OK : INVALID_VALUE;
}
int cuMemFreeHost(void *address) { CURRENT; free(address); return OK; }

static int copy(void *to, const void *from, size_t size, Stream *stream) {
    CURRENT;
    if (!stream) return INVALID_VALUE;
    if (!stream->capturing) memcpy(to, from, size);
    else if (stream->graph.count == NODES) return OUT_OF_MEMORY;
    else stream->graph.copies[stream->graph.count++] = (Copy){to, from, size};
    return OK;
}
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t size, void *stream) {
    return copy((void *)(uintptr_t)to, from, size, stream);
}
int cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, size_t size, void *stream) {
    return copy(to, (void *)(uintptr_t)from, size, stream);
}
int cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, size_t size, void *stream) {
    return copy((void *)(uintptr_t)to, (void *)(uintptr_t)from, size, stream);
}

int cuStreamBeginCapture_v2(void *stream, int mode) {
    CURRENT;
    Stream *begun = stream;
    if (mode != 1 || begun->capturing) return INVALID_VALUE;
    begun->capturing = 1;
    begun->graph.count = 0;
    return OK;
}
int cuStreamEndCapture(void *stream, void **graph) {
    CURRENT;
    Stream *ended = stream;
    if (!ended->capturing) return INVALID_VALUE;
    ended->capturing = 0;
    *graph = memcpy(malloc(sizeof(Graph)), &ended->graph, sizeof(Graph));
    return OK;
}
int cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags) {
    CURRENT;
    if (flags) return INVALID_VALUE;
    *exec = memcpy(malloc(sizeof(Graph)), graph, sizeof(Graph));
    return OK;
}
int cuGraphDestroy(void *graph) { CURRENT; free(graph); return OK; }
int cuGraphExecDestroy(void *exec) { CURRENT; free(exec); return OK; }
int cuGraphLaunch(void *exec, void *stream) {
    CURRENT;
    const Graph *graph = exec;
    for (int i = 0; i < graph->count; i++) {
        const Copy *node = graph->copies + i;
        int status = copy(node->to, node->from, node->size, stream);
        if (status) return status;
    }
    return OK;
}

/* As the driver does, the newest version of a function under its plain name. */
int cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {
    static const char *suffixes[] = {"_v2", ""};
    char full[128];
    *found = NULL;
    if (version > 13000 || flags > 2) return INVALID_VALUE;
    for (int i = 0; i < 2 && !*found; i++) {
        snprintf(full, sizeof full, "%s%s", name, suffixes[i]);
        *found = dlsym(RTLD_DEFAULT, full);
    }
    if (!*found && !strcmp(name, "cuGraphInstantiate")) *found = (void *)cuGraphInstantiateWithFlags;
    if (status) *status = *found ? 0 : 1;
    return OK;
}
int cuGetProcAddress(const char *name, void **found, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, found, version, flags, NULL);
}
