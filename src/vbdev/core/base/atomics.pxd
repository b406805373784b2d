# The compiler's atomics (GCC's __atomic builtins), by the size of what they work on.

from libc.stdint cimport uint32_t, uint64_t


cdef extern from * nogil:
    uint32_t atomic_load_32 "__atomic_load_n"(const uint32_t *source, int order)
    void atomic_store_32 "__atomic_store_n"(uint32_t *target, uint32_t value, int order)
    uint64_t atomic_load_64 "__atomic_load_n"(const uint64_t *source, int order)
    void atomic_store_64 "__atomic_store_n"(uint64_t *target, uint64_t value, int order)
    uint64_t atomic_add_64 "__atomic_fetch_add"(uint64_t *target, uint64_t value, int order)
    uint64_t atomic_sub_64 "__atomic_fetch_sub"(uint64_t *target, uint64_t value, int order)
    uint64_t atomic_or_64 "__atomic_fetch_or"(uint64_t *target, uint64_t bits, int order)
    uint64_t atomic_and_64 "__atomic_fetch_and"(uint64_t *target, uint64_t bits, int order)
    int atomic_load_int "__atomic_load_n"(const int *source, int order)
    int atomic_add_int "__atomic_fetch_add"(int *target, int value, int order)
    int atomic_or_int "__atomic_fetch_or"(int *target, int value, int order)
    int atomic_exchange_int "__atomic_exchange_n"(int *target, int value, int order)
    bint atomic_replace_int "__atomic_compare_exchange_n"(
        int *target, int *expected, int value, bint weak, int order, int order_if_not)
    void atomic_fence "__atomic_thread_fence"(int order)
    int __ATOMIC_RELAXED, __ATOMIC_ACQUIRE, __ATOMIC_RELEASE, __ATOMIC_SEQ_CST
