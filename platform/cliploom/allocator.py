"""How a process that computes with large tensors holds its memory: the environment that it is to be started with.

By default glibc gives each large block back to the system and asks for it anew, so that a quarter of a training step on
CPUs goes into page faults; most of all in threads, where frameworks run what they are given. Here blocks below 256 MiB
come from one heap, which is kept, and larger ones from huge pages. The heap's holes cost some memory: a quarter more in
a ResNet-50, none in a ViT.
"""

ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",  # a thread's own heap would hold no block above 32 MiB
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "THP_MEM_ALLOC_ENABLE": "1",  # torch's: huge pages
}
RUNTIME_ENV = {"env_vars": ENVIRONMENT}
