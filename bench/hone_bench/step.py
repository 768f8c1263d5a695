"""The training step against PyTorch + PEFT on the same random token ids."""

import json
import random

from .pairs import one, same_loss
from .setup import MODEL, WORK, hone_json, peer


def token_file(batch, seq):
    path = WORK / f"ids-{batch}-{seq}.json"
    vocabulary = json.load(open(MODEL / "config.json"))["vocab_size"]
    draw = random.Random(1234)
    batches = [[[draw.randrange(vocabulary) for _ in range(seq)] for _ in range(batch)] for _ in range(4)]
    path.write_text(json.dumps(batches))
    return path


def jobs(a):
    ids = token_file(4, a.seq)
    lora = f"LoRA r=16, 4 × {a.seq}"
    at = "" if a.seq == 256 else f", 4 × {a.seq}"

    def ours(method, dtype, *more):
        shape = ["--model", MODEL, "--ids", ids, "--method", method, "--dtype", dtype, "--threads", a.threads]
        return lambda: hone_json("bench", "step", *shape, "--batch", 4, "--seq", a.seq, "--steps", 8, *more)

    def theirs(method, dtype, *more):
        shape = ["--model", MODEL, "--ids", ids, "--method", method, "--dtype", dtype, "--threads", a.threads]
        return lambda: peer("step.py", *shape, "--steps", 6, *more)

    whole = "≥ 1.8×, memory ≤ 0.6×"
    # What Hone is told, what the peer is told, and how far apart their first losses may be.
    rows = [
        (f"{lora}, bf16", "PyTorch + PEFT, eager", "≥ 2.0×, memory ≤ 0.5×", "lora", "bf16", [], [], 0.01),
        (f"{lora}, bf16", "PyTorch + PEFT, compiled", "≥ 1.8×, memory ≤ 0.5×", "lora", "bf16", [], ["--compile"], 0.01),
        (f"{lora}, f32", "PyTorch + PEFT as it comes", "≥ 3.0×", "lora", "f32", [], [], 1e-4),
        (f"{lora}, f32", "the same, precision medium", "≥ 1.6×", "lora", "f32", [], ["--precision", "medium"], 1e-2),
        (f"full tuning, AdamW, bf16{at}", "PyTorch bf16", whole, "full", "bf16", [], [], 0.01),
        (
            f"full tuning, AdamW with 8-bit moments, bf16{at}", "PyTorch bf16", whole, "full", "bf16",
            ["--optimizer", "adamw8bit"], [], 0.01,
        ),
        (f"forward only, bf16{at}", "PyTorch bf16", "–", "forward", "bf16", [], [], 0.01),
    ]
    for name, against, target, method, dtype, told, more, tolerance in rows:
        if "--compile" in more and a.no_compile:
            continue
        yield one(
            name, against, target, "tokens_per_second", "more", ours(method, dtype, *told), theirs(method, dtype, *more),
            same_loss(tolerance),
        )
