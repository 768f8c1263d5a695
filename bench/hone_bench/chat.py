"""Real conversations, loss on the assistant's turns, one epoch of LoRA, against TRL's SFTTrainer at its best setting."""

import json
import shutil

from .pairs import fastest, one
from .setup import HONE, MODEL, WORK, Failed, data_file, hone_json, peer, say, timed

# Alpaca-GPT4 of LLaMA-Factory (999 rows), then the small set of LLMs-from-scratch.
SOURCES = ["instructions/alpaca_en_demo.jsonl", "instructions/simple_instructions_1100.jsonl"]
LENGTH = 512
MODES = [("padded", 4), ("padded", 8), ("padded", 16), ("packed", 1), ("packed", 4)]
PROBED, AGREED = 32, 8


def jobs(a):
    rows = []
    for source in SOURCES:
        rows += [json.loads(line) for line in open(data_file(a, source), encoding="utf-8")]
    path = WORK / "chat.jsonl"
    conversations(rows[: a.examples], path)
    first = WORK / "chat-first.jsonl"
    conversations(rows[:AGREED], first)
    name = f"{min(a.examples, len(rows))} chat examples, assistant-only loss, LoRA r=16, bf16, one epoch"
    yield name, "TRL SFTTrainer", rows_of(name, path, first)


def conversations(rows, path):
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            asked = row["instruction"] + (f"\n\n{row['input']}" if row["input"] else "")
            turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]
            file.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")


def recipe(data, train, packing=True):
    """A recipe file; JSON is YAML."""
    path = WORK / f"chat-{data.stem}.json"
    told = {
        "model": str(MODEL),
        "data": {
            "path": str(data), "format": "messages", "train_on": "assistant", "max_length": LENGTH, "packing": packing,
            "too_long": "truncate_right", **({"sequence_length": 2 * LENGTH} if packing else {}),
        },
        "method": {"type": "lora", "r": 16},
        "train": {"dtype": "bf16", "save_every": 100000, "warmup_steps": 0, **train},
    }
    path.write_text(json.dumps(told, indent=1))
    return path


def tune(recipe, threads):
    """A run's metrics with the whole process' time and memory."""
    out = WORK / "chat-run"
    shutil.rmtree(out, ignore_errors=True)
    result = timed([HONE, "tune", recipe, "--out", out, "--threads", threads, "--quiet"])
    steps = [json.loads(line) for line in open(out / "metrics.jsonl")]
    return result, [s for s in steps if s["kind"] == "train"]


def rows_of(name, path, first):
    def ours(a):
        shown = hone_json("data", "show", recipe(path, {}))["report"]["train"]
        result, steps = tune(recipe(path, {"epochs": 1, "batch_size": 2, "learning_rate": 2e-4}), a.threads)
        # Steps alone, as on the other side: neither loading nor the last file.
        seconds = sum(s["seconds"] for s in steps)
        return {
            "examples": shown["examples"],
            "trained_tokens": shown["trained_tokens"],
            "examples_per_second": shown["sequences"] / seconds,
            "whole_seconds": result["seconds"],
            "work_cpu_seconds": result["cpu_seconds"],
            "peak_rss_mib": result["peak_rss_mib"],
        }

    def theirs(a, mode, size, *more):
        shape = ["--model", MODEL, "--data", path, "--max-length", LENGTH, "--threads", a.threads]
        return peer("chat.py", *shape, "--mode", mode, "--batch-size", size, *more)

    def same_start(a):
        """The loss of one step over the same few examples, before anything is learned."""
        one_step = {"steps": 1, "batch_size": AGREED, "learning_rate": 1e-6}
        _, steps = tune(recipe(first, one_step, packing=False), a.threads)
        x = steps[0]["loss"]
        y = peer(
            "chat.py", "--model", MODEL, "--data", first, "--max-length", LENGTH, "--batch-size", AGREED, "--steps", 1,
            "--sequential", "--threads", a.threads,
        )["loss_first"]
        say(f"  the first {AGREED} examples, before learning: losses {x:.4f} and {y:.4f}")
        if abs(x - y) / y > 0.01:
            raise Failed(f"losses of the first {AGREED} examples {x} and {y}")

    def rows(a):
        same_start(a)
        counted = theirs(a, "padded", 8, "--count")

        def probe(setting):
            return theirs(a, *setting, "--examples", min(PROBED, a.examples), "--warmup", 0)

        best, tried = fastest("TRL", MODES, probe, "examples_per_second", "more")
        part = min(a.peer_examples or a.examples, a.examples)

        def agree(x, y):
            for key in ("examples", "trained_tokens"):
                if x[key] != counted[key]:
                    return f"{key} {x[key]} and {counted[key]}"
            return None

        run = one(
            name, "TRL SFTTrainer", "≥ 3×", "examples_per_second", "more", lambda: ours(a),
            lambda: theirs(a, *best, "--examples", part), agree,
        )
        made = run[2](a)
        for row in made:
            timed_on = "all" if part == a.examples else f"{part} of them, drawn at random"
            row["note"] = f"{best[0]}, batch size {best[1]}, the fastest of {len(tried)} settings; timed on {timed_on}"
        return made

    return rows
