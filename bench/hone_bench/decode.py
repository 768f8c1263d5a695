"""Reading a prompt and writing on from GGUF files whose blocks stay as they are, against llama.cpp at its best setting."""

import os

from .pairs import alternate
from .setup import WORK, Failed, gguf, hone_json, peer, say

SETTINGS = [(flash, ubatch) for flash in ("on", "off") for ubatch in (512, 256)]
TEXT = "The capital of France is"
AGREED = 4
PREFILL, DECODE = "prefill_tokens_per_second", "decode_tokens_per_second"


def files():
    """The file its publishers made, and two that llama.cpp's own quantiser makes of an F16 export of the model."""
    published = gguf()
    found = {published.stem.split(".")[-1]: published}
    half = WORK / "model-f16.gguf"
    for kind in ("Q8_0", "Q4_0"):
        path = WORK / f"model-{kind}.gguf"
        if not path.exists():
            if not half.exists():
                hone_json("export", published, "--format", "gguf-f16", "--out", half)
            part = path.with_suffix(".part")
            peer("decode.py", "--model", half, "--quantise", kind, "--out", part)
            os.replace(part, path)
        found[kind] = path
    return found


def same_words(file, threads):
    """Both continue the same text with the same tokens, as far as two ways of rounding allow."""
    ours = hone_json("generate", file, "--prompt", TEXT, "--max-new-tokens", 12, "--threads", threads)["ids"]
    theirs = peer("decode.py", "--model", file, "--text", TEXT, "--new", 12, "--threads", threads)["ids"]
    same = next((i for i, (x, y) in enumerate(zip(ours, theirs)) if x != y), min(len(ours), len(theirs)))
    say(f"  {file.name}: the first {same} tokens after {TEXT!r} are the same")
    if same < min(AGREED, len(ours)):
        raise Failed(f"after {TEXT!r}, {ours} and {theirs}")


def jobs(a):
    found = files()
    for kind, file in found.items():
        for batch in (1, 16):
            if batch == 16 and kind == "Q4_0":
                continue
            name = f"{kind}, {batch} at once" if batch > 1 else f"{kind}, batch 1"
            yield name, "llama.cpp", pairs(file, batch, name)


def pairs(file, batch, name):
    def rows(a):
        same_words(file, a.threads)
        shape = ["--model", file, "--prompt", a.prompt, "--new", a.new, "--batch", batch, "--threads", a.threads]
        best = probe(shape)

        def theirs():
            merged = {}
            for setting in set(best.values()):
                result = run(shape, setting)
                for figure, chosen in best.items():
                    if chosen == setting:
                        merged = {**result, **merged, figure: result[figure]}
            return merged

        figures = [
            (PREFILL, "more", f"prefill {a.prompt}, {name}", "≥ 1.0×"),
            (DECODE, "more", f"decode {a.new}, {name}", "≥ 1.0×"),
        ]
        made = alternate(a, name, "llama.cpp", "≥ 1.0×", lambda: hone_json("bench", "decode", *shape), theirs, figures)
        for row in made:
            flash, ubatch = best[row["figure"]]
            row["note"] = f"flash attention {flash}, micro-batch {ubatch}"
        return made

    return rows


def run(shape, setting, *more):
    flash, ubatch = setting
    return peer("decode.py", *shape, "--flash", flash, "--ubatch", ubatch, *more)


def probe(shape):
    """The fastest setting for reading and for writing, each run once."""
    tried = {setting: run(shape, setting, "--repeats", 1) for setting in SETTINGS}
    return {figure: max(tried, key=lambda s: tried[s][figure]) for figure in (PREFILL, DECODE)}
