"""The GIL, handed from one reactor to another without the kernel.

A reactor lets go of the GIL for each copy, checksum and system call, and holds it for a few
microseconds in between. A thread that asks the interpreter for it meanwhile is put to sleep and has
to be woken, which takes both of them longer than the GIL is held. So it looks here first: one word
says who came back last and has not left since. While that is somebody else, it polls the word, for
`PATIENCE_NS` at most, and lets others have its CPU in between; then it asks the interpreter in any
case.

The word is a hint, and who holds the GIL is the interpreter's affair alone. Threads that know
nothing of the word are served as ever. One that leaves without a note (for a system call of
Python's own, say) costs somebody a wait in vain, but only once: who has waited long enough writes
itself down. With one reactor this is a load of a flag. An interpreter without a GIL has none of it.
"""

from libc.stdint cimport uint64_t


cdef extern from *:
    """
    #include <sched.h>
    #include <stdint.h>
    #include <time.h>

    #if defined(__x86_64__) || defined(__i386__)
    #define vbdev_pause() __builtin_ia32_pause()
    #elif defined(__aarch64__)
    #define vbdev_pause() __asm__ volatile("isb" ::: "memory")
    #else
    #define vbdev_pause() __asm__ volatile("" ::: "memory")
    #endif

    /* More than a reactor holds the GIL without a note but for long callbacks in Python. */
    #define PATIENCE_NS 50000
    /* Some tenths of a microsecond to one, after which the CPU is offered to others. */
    #define LOOKS 16
    #define CACHE_LINE 64

    /* Apart, because `crowd` is read by all, and `holder` is written by each in turn. */
    static struct {
        _Alignas(CACHE_LINE) int crowd;
        _Alignas(CACHE_LINE) uintptr_t holder;
        _Alignas(CACHE_LINE) uint64_t waits;
        uint64_t in_vain;
    } vbdev_handover;

    static __thread char vbdev_me;  /* its address is the thread's number */

    static uint64_t vbdev_monotonic_ns(void)
    {
        struct timespec at;
        clock_gettime(CLOCK_MONOTONIC, &at);
        return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
    }

    static void vbdev_left(void)
    {
    #ifndef Py_GIL_DISABLED
        uintptr_t me = (uintptr_t)&vbdev_me;
        if (__atomic_load_n(&vbdev_handover.crowd, __ATOMIC_RELAXED) == 0)
            return;
        if (__atomic_load_n(&vbdev_handover.holder, __ATOMIC_RELAXED) == me)
            /* Not a store: another may have written itself down. */
            __atomic_compare_exchange_n(&vbdev_handover.holder, &me, 0, 0,
                                        __ATOMIC_RELEASE, __ATOMIC_RELAXED);
    #endif
    }

    static int vbdev_try(void)
    {
        uintptr_t nobody = 0;
        /* The load keeps the line shared among those that wait. */
        return __atomic_load_n(&vbdev_handover.holder, __ATOMIC_RELAXED) == 0
            && __atomic_compare_exchange_n(&vbdev_handover.holder, &nobody, (uintptr_t)&vbdev_me,
                                           0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
    }

    static void vbdev_wanted(void)
    {
    #ifndef Py_GIL_DISABLED
        uint64_t until;
        int look;
        if (__atomic_load_n(&vbdev_handover.crowd, __ATOMIC_RELAXED) == 0 || vbdev_try())
            return;
        __atomic_fetch_add(&vbdev_handover.waits, 1, __ATOMIC_RELAXED);
        until = vbdev_monotonic_ns() + PATIENCE_NS;
        do {
            for (look = 0; look < LOOKS; look++) {
                vbdev_pause();
                if (vbdev_try())
                    return;
            }
            sched_yield();
        } while (vbdev_monotonic_ns() < until);
        __atomic_fetch_add(&vbdev_handover.in_vain, 1, __ATOMIC_RELAXED);
        __atomic_store_n(&vbdev_handover.holder, (uintptr_t)&vbdev_me, __ATOMIC_RELAXED);
    #endif
    }

    static int vbdev_crowd(int more)
    {
        return __atomic_add_fetch(&vbdev_handover.crowd, more, __ATOMIC_RELAXED);
    }

    static uint64_t vbdev_waits(void)
    {
        return __atomic_load_n(&vbdev_handover.waits, __ATOMIC_RELAXED);
    }

    static uint64_t vbdev_in_vain(void)
    {
        return __atomic_load_n(&vbdev_handover.in_vain, __ATOMIC_RELAXED);
    }
    """
    void vbdev_left() nogil
    void vbdev_wanted() nogil
    int vbdev_crowd(int more)
    uint64_t vbdev_waits()
    uint64_t vbdev_in_vain()


cdef void gil_left() noexcept nogil:
    vbdev_left()


cdef void gil_wanted() noexcept nogil:
    vbdev_wanted()


def joined():
    """Say that one thread more runs a reactor beside the first; return how many do."""
    return vbdev_crowd(1)


def parted():
    """Say that one thread less does; return how many do."""
    return vbdev_crowd(-1)


def left():
    """Say that the calling thread is about to wait in code of Python's own."""
    vbdev_left()


def counts():
    """Return how often a thread has waited for another, and how often of these in vain."""
    return vbdev_waits(), vbdev_in_vain()
