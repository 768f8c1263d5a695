"""What the peers in Python share: their surroundings, to be settled before torch is imported, and what a process has used."""

import os
import resource


def settle(threads):
    """So many threads, no network, and no second pool of threads for the tokenizer."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def cpu_seconds():
    """Processor seconds of this process so far, the system's work for it included."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_rss_mib():
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
