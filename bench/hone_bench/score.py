"""Scoring real tasks against lm-evaluation-harness' Hugging Face backend; the scores must be equal."""

import json
import shutil

from .pairs import fastest, one
from .setup import HONE, MODEL, ROOT, WORK, data_file, peer, timed

TASKS = ["arc_easy", "boolq", "piqa"]
# `auto` is not among them: it begins with 64 rows of the model's whole context, which is more memory than most machines have.
SIZES = {0: [1, 8, 16, 32], 5: [1, 4, 8, 16]}
PROBED = 16


def jobs(a):
    data_file(a, "commonsense/piqa_test.jsonl")
    folder = WORK / "tasks"
    shutil.rmtree(folder, ignore_errors=True)
    peer("tasks.py", "--tasks", ",".join(TASKS), "--from", ROOT / "tasks", "--data-root", a.data_root, "--out", folder)
    for dtype in ("f32", "bf16") if a.bf16 else ("f32",):
        for shots in map(int, a.shots.split(",")):
            name = f"scoring {', '.join(TASKS)}, {shots}-shot, {a.limit} questions each, {dtype}"
            yield name, "lm-evaluation-harness", rows_of(folder, name, shots, dtype)


def rows_of(folder, name, shots, dtype):
    def ours(a):
        out = WORK / "cards"
        shutil.rmtree(out, ignore_errors=True)
        command = [HONE, "eval", MODEL, "--tasks", ",".join(TASKS), "--num-fewshot", shots, "--dtype", dtype, "--out", out]
        result = timed([*command, "--limit", a.limit, "--data-root", a.data_root, "--threads", a.threads, "--json", "--quiet"])
        cards = json.loads(result["printed"])["tasks"]
        return {**result, "scores": {c["task"]: {m["name"]: m["value"] for m in c["metrics"]} for c in cards}}

    def theirs(a, size, limit):
        found = peer(
            "score.py", "--model", MODEL, "--tasks", ",".join(TASKS), "--include", folder, "--shots", shots, "--limit", limit,
            "--dtype", {"f32": "float32", "bf16": "bfloat16"}[dtype], "--batch-size", size, "--threads", a.threads,
        )
        # Python's own start and its imports are not counted; loading is, on both sides.
        return {**found, "seconds": found["seconds"] + found["load_seconds"]}

    def agree(x, y):
        # In f32 the same answers win everywhere; bf16 rounds differently on the two sides, by a few questions in a hundred.
        tolerance = 1e-9 if dtype == "f32" else 0.05
        for task, metrics in y["scores"].items():
            for metric in ("acc", "acc_norm"):
                if metric in metrics and abs(metrics[metric] - x["scores"][task][metric]) > tolerance:
                    return f"{task} {metric}: {x['scores'][task][metric]} and {metrics[metric]}"
        return None

    def rows(a):

        def probe(size):
            return theirs(a, size, min(PROBED, a.limit))

        best, tried = fastest(
            f"{shots}-shot, the harness at batch size", SIZES.get(shots, SIZES[5]), probe, "seconds", "less"
        )
        run = one(
            name, "lm-evaluation-harness", "≥ 3×", "seconds", "less", lambda: ours(a), lambda: theirs(a, best, a.limit), agree
        )
        made = run[2](a)
        for row in made:
            row["note"] = f"batch size {best}, the fastest of {', '.join(map(str, tried))}"
        return made

    return rows
