"""The loss curve of a LoRA run beside PyTorch + PEFT's: the same rows in the same order from the same adapter.

Hone draws the first adapter: a run of one step at a vanishing learning rate writes it as a PEFT directory (its seed is that of
the measured run, which so begins with the same values), and PEFT loads it. Hone's rows are texts, PyTorch's the ids of the
same texts.
"""

import json
import shutil
import subprocess

from . import page
from .chat import tune
from .pairs import kept, stamp
from .setup import HONE, MODEL, WORK, Failed, data_file, peer

TEXT = "text/wikitext2_valid.txt"
BATCH, LENGTH, RATE, WINDOW = 4, 64, 1e-3, 10
LIMIT = 0.01


def jobs(a):
    rows = WORK / "loss-rows"
    peer("rows.py", "--model", MODEL, "--text", data_file(a, TEXT), "--rows", BATCH * a.loss_steps, "--length", LENGTH, "--out", rows)
    ids = json.load(open(f"{rows}.json"))
    batches = WORK / "loss-batches.json"
    batches.write_text(json.dumps([ids[i : i + BATCH] for i in range(0, len(ids) - BATCH + 1, BATCH)]))
    for dtype in ("f32", "bf16"):
        name = f"loss curve of {a.loss_steps} steps, LoRA r=16, {BATCH} × {LENGTH} tokens of real text, {dtype}"
        yield name, "PyTorch + PEFT", rows_of(name, dtype, f"{rows}.jsonl", batches)


def recipe(texts, dtype, steps, rate):
    path = WORK / f"loss-{dtype}-{steps}.json"
    told = {
        "model": str(MODEL),
        "data": {"path": str(texts), "format": "text", "train_on": "all", "shuffle": False, "max_length": LENGTH + 1},
        "method": {"type": "lora", "r": 16},
        "train": {
            "steps": steps, "batch_size": BATCH, "dtype": dtype, "learning_rate": rate, "schedule": "constant", "warmup_steps": 0,
            "save_every": 100000,
        },
    }
    path.write_text(json.dumps(told, indent=1))
    return path


def first_adapter(texts, dtype, threads):
    out = WORK / f"loss-start-{dtype}"
    shutil.rmtree(out, ignore_errors=True)
    command = [HONE, "tune", recipe(texts, dtype, 1, 1e-30), "--out", out, "--threads", threads, "--quiet"]
    # Such a run ends with an error, that the adapter changes nothing; which is what is wanted of it.
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if not (out / "adapter" / "adapter_model.safetensors").exists():
        raise Failed(f"no first adapter: {done.stderr[-1000:]}")
    return out / "adapter"


def rows_of(name, dtype, texts, batches):
    def rows(a):
        adapter = first_adapter(texts, dtype, a.threads)
        ours, steps = tune(recipe(texts, dtype, a.loss_steps, RATE), a.threads)
        ours = {**ours, "losses": [s["loss"] for s in steps]}
        theirs = peer(
            "loss.py", "--model", MODEL, "--adapter", adapter, "--ids", batches, "--dtype", dtype, "--steps", a.loss_steps,
            "--learning-rate", RATE, "--threads", a.threads,
        )
        x, y = ours["losses"], theirs["losses"]
        if len(x) != len(y):
            raise Failed(f"{len(x)} and {len(y)} steps")
        raw, smooth = apart(x, y), apart(smoothed(x), smoothed(y))
        (WORK / f"loss-{dtype}.json").write_text(json.dumps({"ours": x, "theirs": y}))
        picture = draw(a, dtype)
        verdict = "within" if smooth <= LIMIT else "NOT within"
        said = (
            f"**{name}**, from the same adapter: the losses are at most {100 * raw:.3f} % apart at any step, "
            f"{100 * smooth:.3f} % as means of {WINDOW} steps ({verdict} the 1 % asked for); "
            f"{x[0]:.4f} and {y[0]:.4f} at the first step, {smoothed(x)[-1]:.4f} and {smoothed(y)[-1]:.4f} at the end."
        )
        exact = WORK / "loss-f32.json"
        if dtype != "f32" and exact.exists():
            curve = json.loads(exact.read_text())["theirs"]
            if len(curve) == len(y):
                far = [100 * apart(smoothed(losses), smoothed(curve)) for losses in (x, y)]
                said += f" From PyTorch's f32 losses, Hone's are at most {far[0]:.3f} % away and PyTorch's {far[1]:.3f} %."
        row = {
            "name": name, "against": "PyTorch + PEFT", "target": "≤ 1 %", "rounds": 1, "said": said, "plot": picture,
            "largest_raw": raw, "largest_smoothed": smooth, "ours": kept(ours), "theirs": kept(theirs),
            "versions": theirs["version"],
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


def draw(a, dtype):
    name = f"loss-{dtype}.svg"
    data = WORK / f"loss-{dtype}.json"
    peer("plot.py", "loss", "--data", data, "--title", f"SmolLM2-135M, LoRA r=16, {dtype}", "--out", page.picture(name))
    return name
