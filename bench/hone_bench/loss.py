"""The loss curve of a run beside PyTorch's: the same rows in the same order from the same start.

LoRA starts from an adapter that Hone draws: a run of one step at a vanishing learning rate writes it as a PEFT directory (its
seed is that of the measured run, which so begins with the same values), and PEFT loads it. Full tuning starts from the model,
its masters in f32 on both sides. Hone's rows are texts, PyTorch's the ids of the same texts.
"""

import dataclasses
import json
import shutil
import subprocess

from . import page
from .chat import tune
from .pairs import kept, stamp
from .setup import HONE, MODEL, WORK, Failed, data_file, peer

TEXT = "text/wikitext2_valid.txt"
BATCH, LENGTH, WINDOW = 4, 64, 10
LIMIT = 0.01


@dataclasses.dataclass
class Curve:
    """What is trained, and how."""

    file: str
    name: str
    method: dict
    dtype: str
    rate: float
    optimizer: str = "adamw"


LORA = {"type": "lora", "r": 16}
CURVES = [
    Curve("f32", "LoRA r=16", LORA, "f32", 1e-3),
    # At 1e-3 a bf16 run is unstable on both sides: a ten-thousandth more of it changes losses by up to 10 % (the diary).
    Curve("bf16", "LoRA r=16", LORA, "bf16", 2e-4),
    Curve("full", "full tuning", {"type": "full"}, "bf16", 5e-5),
    Curve("full-8bit", "full tuning with 8-bit moments", {"type": "full"}, "bf16", 5e-5, "adamw8bit"),
]


def jobs(a):
    rows = WORK / "loss-rows"
    peer("rows.py", "--model", MODEL, "--text", data_file(a, TEXT), "--rows", BATCH * a.loss_steps, "--length", LENGTH, "--out", rows)
    ids = json.load(open(f"{rows}.json"))
    batches = WORK / "loss-batches.json"
    batches.write_text(json.dumps([ids[i : i + BATCH] for i in range(0, len(ids) - BATCH + 1, BATCH)]))
    # A curve of PyTorch's that two of Hone's are held against is made once.
    made = {}
    for curve in CURVES:
        name = f"loss curve of {a.loss_steps} steps, {curve.name}, {BATCH} × {LENGTH} tokens of real text, {curve.dtype}"
        against = "PyTorch + PEFT" if curve.method is LORA else "PyTorch"
        yield name, against, rows_of(name, against, curve, f"{rows}.jsonl", batches, made)


def recipe(curve, texts, steps, rate):
    path = WORK / f"loss-{curve.file}-{steps}.json"
    told = {
        "model": str(MODEL),
        "data": {"path": str(texts), "format": "text", "train_on": "all", "shuffle": False, "max_length": LENGTH + 1},
        "method": curve.method,
        "train": {
            "steps": steps, "batch_size": BATCH, "dtype": curve.dtype, "learning_rate": rate, "schedule": "constant",
            "warmup_steps": 0, "save_every": 100000, "optimizer": curve.optimizer,
        },
    }
    path.write_text(json.dumps(told, indent=1))
    return path


def first_adapter(curve, texts, threads):
    out = WORK / f"loss-start-{curve.file}"
    shutil.rmtree(out, ignore_errors=True)
    command = [HONE, "tune", recipe(curve, texts, 1, 1e-30), "--out", out, "--threads", threads, "--quiet"]
    # Such a run ends with an error, that the adapter changes nothing; which is what is wanted of it.
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if not (out / "adapter" / "adapter_model.safetensors").exists():
        raise Failed(f"no first adapter: {done.stderr[-1000:]}")
    return out / "adapter"


def rows_of(name, against, curve, texts, batches, made):
    def theirs(a):
        start = ["--adapter", first_adapter(curve, texts, a.threads)] if curve.method is LORA else []
        return peer(
            "loss.py", "--model", MODEL, *start, "--ids", batches, "--dtype", curve.dtype, "--steps", a.loss_steps,
            "--learning-rate", curve.rate, "--threads", a.threads,
        )

    def rows(a):
        key = (curve.method["type"], curve.dtype, curve.rate)
        if key not in made:
            made[key] = theirs(a)
        found = made[key]
        ours, steps = tune(recipe(curve, texts, a.loss_steps, curve.rate), a.threads)
        x, y = [s["loss"] for s in steps], found["losses"]
        if len(x) != len(y):
            raise Failed(f"{len(x)} and {len(y)} steps")
        raw, smooth = apart(x, y), apart(smoothed(x), smoothed(y))
        (WORK / f"loss-{curve.file}.json").write_text(json.dumps({"ours": x, "theirs": y}))
        picture = draw(curve, against)
        verdict = "within" if smooth <= LIMIT else "NOT within"
        said = (
            f"**{name}**, from the same start: the losses are at most {100 * raw:.3f} % apart at any step, "
            f"{100 * smooth:.3f} % as means of {WINDOW} steps ({verdict} the 1 % asked for); "
            f"{x[0]:.4f} and {y[0]:.4f} at the first step, {smoothed(x)[-1]:.4f} and {smoothed(y)[-1]:.4f} at the end."
        )
        row = {
            "name": name, "against": against, "target": "≤ 1 %", "rounds": 1, "said": said, "plot": picture,
            "largest_raw": raw, "largest_smoothed": smooth, "ours": kept(ours), "theirs": kept(found),
            "versions": found["version"],
        }
        yield stamp(row, a)
        if smooth > LIMIT:
            raise Failed(f"the smoothed losses are {100 * smooth:.2f} % apart")

    return rows


def smoothed(losses):
    """Means of `WINDOW` neighbouring steps."""
    width = min(WINDOW, len(losses))
    return [sum(losses[i : i + width]) / width for i in range(len(losses) - width + 1)]


def apart(x, y):
    return max(abs(a - b) / b for a, b in zip(x, y))


def draw(curve, against):
    name, data = f"loss-{curve.file}.svg", WORK / f"loss-{curve.file}.json"
    title = f"SmolLM2-135M, {curve.name}, {curve.dtype}"
    peer("plot.py", "loss", "--data", data, "--title", title, "--against", against, "--out", page.picture(name))
    return name
