/* A fake libcudart for tests: "device memory" is memory of this process, but it knows what it gave out.

   It refuses what the real one refuses (a freed pointer, a length too long, a host address where a device address
   belongs) and is asynchronous where the real one may be: a copy to the host happens at the next synchronisation.
   At the end of the process it writes what was never freed to $FAKE_STATE/cuda.txt. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_HANDLE = 400, ILLEGAL_ADDRESS = 700 };
enum { HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2 };

typedef struct Block { char *start; size_t size; struct Block *next; } Block;
typedef struct Copy { void *to; const void *from; size_t size; struct Copy *next; } Copy;
typedef struct Stream { Copy *waiting; struct Stream *next; } Stream;

static Block *blocks;
static Stream *streams;
static int given, taken;

static size_t limit(void) {
    const char *text = getenv("FAKE_CUDA_BYTES");
    return text ? strtoull(text, NULL, 10) : (size_t)1 << 32;
}

int fake_is_device(const void *address, size_t size) {
    for (Block *one = blocks; one; one = one->next)
        if ((const char *)address >= one->start && (const char *)address + size <= one->start + one->size) return 1;
    return 0;
}

int fake_is_stream(const void *stream) {
    for (Stream *one = streams; one; one = one->next)
        if (one == stream) return 1;
    return 0;
}

const char *cudaGetErrorString(int code) {
    switch (code) {
    case SUCCESS: return "no error";
    case INVALID_VALUE: return "invalid argument";
    case OUT_OF_MEMORY: return "out of memory";
    case INVALID_HANDLE: return "invalid resource handle";
    case ILLEGAL_ADDRESS: return "an illegal memory access was encountered";
    default: return "unrecognized error code";
    }
}

int cudaMalloc(void **address, size_t size) {
    Block *block;
    if (size == 0 || size > limit()) return OUT_OF_MEMORY;
    block = malloc(sizeof *block);
    block->start = malloc(size);
    block->size = size;
    block->next = blocks;
    memset(block->start, 0xA5, size); /* never zeros: a value that was not written must not look like one */
    blocks = block;
    given++;
    *address = block->start;
    return SUCCESS;
}

int cudaFree(void *address) {
    if (!address) return SUCCESS;
    for (Block **link = &blocks; *link; link = &(*link)->next)
        if ((*link)->start == address) {
            Block *gone = *link;
            *link = gone->next;
            memset(gone->start, 0xDD, gone->size);
            free(gone->start);
            free(gone);
            taken++;
            return SUCCESS;
        }
    return INVALID_VALUE;
}

int cudaStreamCreate(Stream **stream) {
    *stream = calloc(1, sizeof **stream);
    (*stream)->next = streams;
    streams = *stream;
    return SUCCESS;
}

int cudaStreamSynchronize(Stream *stream) {
    if (!fake_is_stream(stream)) return INVALID_HANDLE;
    while (stream->waiting) {
        Copy *copy = stream->waiting;
        stream->waiting = copy->next;
        if (!fake_is_device(copy->from, copy->size)) return ILLEGAL_ADDRESS;
        memcpy(copy->to, copy->from, copy->size);
        free(copy);
    }
    return SUCCESS;
}

int cudaStreamDestroy(Stream *stream) {
    if (!fake_is_stream(stream)) return INVALID_HANDLE;
    for (Stream **link = &streams; *link; link = &(*link)->next)
        if (*link == stream) {
            *link = stream->next;
            break;
        }
    free(stream);
    return SUCCESS;
}

static int wait_to_copy(Stream *stream, void *to, const void *from, size_t size) {
    Copy *copy = calloc(1, sizeof *copy), **link = &stream->waiting;
    copy->to = to;
    copy->from = from;
    copy->size = size;
    while (*link) link = &(*link)->next;
    *link = copy;
    return SUCCESS;
}

int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, Stream *stream) {
    int code;
    if (!fake_is_stream(stream)) return INVALID_HANDLE;
    if (kind == DEVICE_TO_HOST)
        return fake_is_device(from, size) && !fake_is_device(to, 1) ? wait_to_copy(stream, to, from, size)
                                                                    : INVALID_VALUE;
    if (kind != HOST_TO_DEVICE || !fake_is_device(to, size) || fake_is_device(from, 1)) return INVALID_VALUE;
    code = cudaStreamSynchronize(stream);
    if (code == SUCCESS) memcpy(to, from, size);
    return code;
}

__attribute__((destructor)) static void report(void) {
    const char *folder = getenv("FAKE_STATE");
    char path[4096];
    FILE *file;
    int left = 0;
    if (!folder || snprintf(path, sizeof path, "%s/cuda.txt", folder) >= (int)sizeof path) return;
    for (Stream *one = streams; one; one = one->next) left++;
    file = fopen(path, "w");
    if (!file) return;
    fprintf(file, "given %d taken %d streams %d\n", given, taken, left);
    fclose(file);
}
