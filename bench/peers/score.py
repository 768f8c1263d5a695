"""lm-evaluation-harness on task files: the peer of `hone eval`.

    python score.py --model DIR --tasks a,b --include DIR --shots 0 --dtype float32 --batch-size 16 [--limit N]

Prints one JSON line: wall seconds of loading and scoring, and every task's metrics.
"""

import argparse
import json
import time

from common import cpu_seconds, peak_rss_mib, settle

arguments = argparse.ArgumentParser()
arguments.add_argument("--model", required=True)
arguments.add_argument("--tasks", required=True)
arguments.add_argument("--include", required=True)
arguments.add_argument("--shots", type=int, default=0)
arguments.add_argument("--dtype", default="float32")
arguments.add_argument("--batch-size", default="16")
arguments.add_argument("--limit", type=int)
arguments.add_argument("--threads", type=int, default=2)
a = arguments.parse_args()
settle(a.threads)

import torch

torch.set_num_threads(a.threads)
import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: F401  imported late otherwise, and timed


start, before = time.perf_counter(), cpu_seconds()
model = HFLM(pretrained=a.model, device="cpu", dtype=a.dtype, batch_size=a.batch_size)
ready = time.perf_counter()
results = lm_eval.simple_evaluate(
    model=model,
    tasks=a.tasks.split(","),
    num_fewshot=a.shots,
    limit=a.limit,
    task_manager=TaskManager(include_path=a.include, include_defaults=False),
    bootstrap_iters=0,
)
end = time.perf_counter()
scores = {
    task: {name.split(",")[0]: value for name, value in metrics.items() if isinstance(value, float)}
    for task, metrics in results["results"].items()
}
print(
    json.dumps(
        {
            "load_seconds": ready - start,
            "seconds": end - ready,
            "scores": scores,
            "cpu_seconds": cpu_seconds() - before,
            "peak_rss_mib": peak_rss_mib(),
            "version": f"lm-eval {lm_eval.__version__}, torch {torch.__version__}",
        }
    )
)
