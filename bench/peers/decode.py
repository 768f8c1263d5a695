"""Prompt and continuation speed of llama.cpp, through llama-cpp-python: the peer of `hone bench decode`.

    python decode.py --model FILE.gguf --prompt 512 --new 128 --batch 1 [--flash on|off] [--ubatch 512]
    python decode.py --model FILE.gguf --text "The capital of France is" --new 8
    python decode.py --model FILE.gguf --quantise Q8_0 --out OTHER.gguf

Uses the library's C interface, so that neither sampling nor Python's text handling is timed. Sequences are read together, as
many tokens at once as `--ubatch`, and each keeps its own part of the cache. With `--text`, the most likely continuation's ids.
Prints one JSON line.
"""

import argparse
import ctypes
import json
import statistics
import sys
import time

import llama_cpp
import numpy
from common import cpu_seconds, peak_rss_mib
from llama_cpp import llama_cpp as c

LOGICAL = 2048

arguments = argparse.ArgumentParser()
arguments.add_argument("--model", required=True)
arguments.add_argument("--prompt", type=int, default=512)
arguments.add_argument("--new", type=int, default=128)
arguments.add_argument("--batch", type=int, default=1)
arguments.add_argument("--repeats", type=int, default=3)
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--flash", choices=["on", "off"], default="on")
arguments.add_argument("--ubatch", type=int, default=512)
arguments.add_argument("--text")
arguments.add_argument("--quantise", choices=["Q4_0", "Q4_1", "Q8_0"])
arguments.add_argument("--out")
a = arguments.parse_args()

c.llama_backend_init()
quiet = c.llama_log_callback(lambda level, text, data: None)
c.llama_log_set(quiet, ctypes.c_void_p(0))
version = f"llama-cpp-python {llama_cpp.__version__}"

if a.quantise:
    how = c.llama_model_quantize_default_params()
    how.ftype = getattr(c, f"LLAMA_FTYPE_MOSTLY_{a.quantise}")
    how.allow_requantize = True
    how.nthread = a.threads
    code = c.llama_model_quantize(a.model.encode(), a.out.encode(), ctypes.byref(how))
    if code != 0:
        sys.exit(f"llama_model_quantize gave {code}")
    print(json.dumps({"out": a.out, "version": version}))
    sys.exit(0)

start = time.perf_counter()
model = c.llama_model_load_from_file(a.model.encode(), c.llama_model_default_params())
if not model:
    sys.exit(f"{a.model} was not loaded")
vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))
prompts = [[(i * 7919 + 104729 * s + 100) % vocabulary for i in range(a.prompt)] for s in range(a.batch)]
if a.text is not None:
    text, room = a.text.encode(), (c.llama_token * (len(a.text.encode()) + 8))()
    found = c.llama_tokenize(c.llama_model_get_vocab(model), text, len(text), room, len(room), False, True)
    prompts = [list(room[:found])]
    a.batch, a.prompt, a.repeats = 1, found, 1

settings = c.llama_context_default_params()
# A sequence's share of the cache is a multiple of 256 places.
settings.n_ctx = -(-(a.prompt + a.new) // 256) * 256 * a.batch
settings.n_seq_max = a.batch
settings.n_batch = LOGICAL
settings.n_ubatch = a.ubatch
settings.n_threads = settings.n_threads_batch = a.threads
settings.flash_attn_type = 1 if a.flash == "on" else 0
settings.kv_unified = False
context = c.llama_init_from_model(model, settings)
if not context:
    sys.exit("no context of these settings")
load_seconds = time.perf_counter() - start
batch = c.llama_batch_init(LOGICAL, 0, 1)


def decode(entries):
    """`entries`: (token, position, sequence, whether its logits are wanted)."""
    for i, (token, position, sequence, wanted) in enumerate(entries):
        batch.token[i] = token
        batch.pos[i] = position
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = sequence
        batch.logits[i] = wanted
    batch.n_tokens = len(entries)
    code = c.llama_decode(context, batch)
    if code != 0:
        sys.exit(f"llama_decode gave {code}")
    return {
        sequence: int(numpy.ctypeslib.as_array(c.llama_get_logits_ith(context, i), shape=(vocabulary,)).argmax())
        for i, (_, _, sequence, wanted) in enumerate(entries)
        if wanted
    }


reading_order = [
    (token, at, sequence, at == a.prompt - 1) for sequence, ids in enumerate(prompts) for at, token in enumerate(ids)
]
first, reading, writing, ids = None, [], [], []
before = cpu_seconds()
for repeat in range(a.repeats):
    c.llama_memory_clear(c.llama_get_memory(context), True)
    start = time.perf_counter()
    following = {}
    for at in range(0, len(reading_order), LOGICAL):
        following |= decode(reading_order[at : at + LOGICAL])
    reading.append(time.perf_counter() - start)
    first = first or load_seconds + reading[0]
    ids = [following[0]]
    start = time.perf_counter()
    for step in range(a.new - 1):
        following = decode([(following[s], a.prompt + step, s, True) for s in range(a.batch)])
        ids.append(following[0])
    writing.append(time.perf_counter() - start)
print(
    json.dumps(
        {
            "prefill_tokens_per_second": a.batch * a.prompt / statistics.median(reading),
            "decode_tokens_per_second": a.batch * (a.new - 1) / statistics.median(writing),
            "first_token_seconds": first,
            "load_seconds": load_seconds,
            "work_cpu_seconds": (cpu_seconds() - before) / a.repeats,
            "peak_rss_mib": peak_rss_mib(),
            "ids": ids if a.text is not None else None,
            "version": version,
        }
    )
)
