"""Prompt and continuation speed of llama.cpp, through llama-cpp-python: the peer of `hone bench decode`.

    python decode.py --model FILE.gguf --prompt 512 --new 128 --batch 1

Uses the library's C interface, so that neither sampling nor Python's text handling is timed. Prints one JSON line.
"""

import argparse
import ctypes
import json
import resource
import statistics
import time

import llama_cpp
from llama_cpp import llama_cpp as c

arguments = argparse.ArgumentParser()
arguments.add_argument("--model", required=True)
arguments.add_argument("--prompt", type=int, default=512)
arguments.add_argument("--new", type=int, default=128)
arguments.add_argument("--batch", type=int, default=1)
arguments.add_argument("--repeats", type=int, default=3)
arguments.add_argument("--threads", type=int, default=2)
a = arguments.parse_args()

c.llama_backend_init()
quiet = c.llama_log_callback(lambda level, text, data: None)
c.llama_log_set(quiet, ctypes.c_void_p(0))
start = time.perf_counter()
parameters = c.llama_model_default_params()
model = c.llama_model_load_from_file(a.model.encode(), parameters)
settings = c.llama_context_default_params()
settings.n_ctx = (a.prompt + a.new + 8) * a.batch
settings.n_seq_max = a.batch
settings.n_batch = max(512, a.batch)
settings.n_ubatch = 512
settings.n_threads = settings.n_threads_batch = a.threads
context = c.llama_init_from_model(model, settings)
load_seconds = time.perf_counter() - start
vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))


def fill(batch, entries):
    for i, (token, position, sequence, wanted) in enumerate(entries):
        batch.token[i] = token
        batch.pos[i] = position
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = sequence
        batch.logits[i] = wanted
    batch.n_tokens = len(entries)


def best(logits):
    import numpy

    return int(numpy.ctypeslib.as_array(logits, shape=(vocabulary,)).argmax())


batch = c.llama_batch_init(max(512, a.batch), 0, 1)
first, reading, writing = None, [], []
for repeat in range(a.repeats):
    c.llama_memory_clear(c.llama_get_memory(context), True)
    start = time.perf_counter()
    following = []
    for sequence in range(a.batch):
        ids = [(i * 7919 + 104729 * sequence + 100) % vocabulary for i in range(a.prompt)]
        for at in range(0, a.prompt, 512):
            part = ids[at : at + 512]
            last = at + len(part) == a.prompt
            fill(batch, [(t, at + i, sequence, last and i == len(part) - 1) for i, t in enumerate(part)])
            assert c.llama_decode(context, batch) == 0
        following.append(best(c.llama_get_logits_ith(context, -1)))
    read = time.perf_counter() - start
    first = first or load_seconds + read
    start = time.perf_counter()
    for step in range(a.new - 1):
        fill(batch, [(t, a.prompt + step, sequence, True) for sequence, t in enumerate(following)])
        assert c.llama_decode(context, batch) == 0
        following = [best(c.llama_get_logits_ith(context, i)) for i in range(a.batch)]
    reading.append(read)
    writing.append(time.perf_counter() - start)
print(
    json.dumps(
        {
            "prefill_tokens_per_second": a.batch * a.prompt / statistics.median(reading),
            "decode_tokens_per_second": a.batch * (a.new - 1) / statistics.median(writing),
            "first_token_seconds": first,
            "load_seconds": load_seconds,
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "version": f"llama-cpp-python {llama_cpp.__version__}",
        }
    )
)
