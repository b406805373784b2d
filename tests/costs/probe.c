/* What the tools see of the child: where to count, and where a count ends.

   Loaded by ctypes, `costs_on` and `costs_off` enclose what is counted. callgrind understands the
   client requests, strace the access() calls. Preloaded (LD_PRELOAD), the functions below
   replace the C library's, and count what is copied and allocated meanwhile. */

#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_START_INSTRUMENTATION
#define CALLGRIND_TOGGLE_COLLECT
#define CALLGRIND_DUMP_STATS_AT(name)
#endif

static int counting;
unsigned long costs_copied, costs_allocations;

void costs_start(void) { CALLGRIND_START_INSTRUMENTATION; }

void costs_on(void)
{
    access("/costs/on", F_OK);
    counting = 1;
    CALLGRIND_TOGGLE_COLLECT;
}

void costs_off(void)
{
    CALLGRIND_TOGGLE_COLLECT;
    counting = 0;
    access("/costs/off", F_OK);
}

void costs_part(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "/costs/part/%s", name);
    access(path, F_OK);
    CALLGRIND_DUMP_STATS_AT(name);
}

#ifdef COSTS_PRELOAD

/* Not by memcpy, which would be this function again. */
static void copy_up(void *to, const void *from, size_t n)
{
    unsigned char *t = to;
    const unsigned char *f = from;
    for (; n >= 8; n -= 8, t += 8, f += 8) {
        unsigned long word = *(const volatile unsigned long __attribute__((aligned(1))) *)f;
        *(volatile unsigned long __attribute__((aligned(1))) *)t = word;
    }
    while (n--)
        *(volatile unsigned char *)t++ = *f++;
}

static void copy_down(void *to, const void *from, size_t n)
{
    while (n--)
        ((volatile unsigned char *)to)[n] = ((const unsigned char *)from)[n];
}

static inline void copied(size_t n)
{
    if (counting)
        costs_copied += n;
}

void *memcpy(void *to, const void *from, size_t n)
{
    copied(n);
    copy_up(to, from, n);
    return to;
}

void *memmove(void *to, const void *from, size_t n)
{
    copied(n);
    if ((size_t)((char *)to - (const char *)from) < n)
        copy_down(to, from, n);
    else
        copy_up(to, from, n);
    return to;
}

void *mempcpy(void *to, const void *from, size_t n) { return (char *)memcpy(to, from, n) + n; }

void *__memcpy_chk(void *to, const void *from, size_t n, size_t room)
{
    return memcpy(to, from, n);
}

void *__memmove_chk(void *to, const void *from, size_t n, size_t room)
{
    return memmove(to, from, n);
}

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static inline void allocated(void)
{
    if (counting)
        costs_allocations++;
}

void *malloc(size_t n)
{
    allocated();
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    allocated();
    return __libc_calloc(n, size);
}

void *realloc(void *old, size_t n)
{
    allocated();
    return __libc_realloc(old, n);
}

void *memalign(size_t alignment, size_t n)
{
    allocated();
    return __libc_memalign(alignment, n);
}

void *aligned_alloc(size_t alignment, size_t n) { return memalign(alignment, n); }

int posix_memalign(void **out, size_t alignment, size_t n)
{
    void *made = memalign(alignment, n);
    if (made == NULL)
        return ENOMEM;
    *out = made;
    return 0;
}

#endif
