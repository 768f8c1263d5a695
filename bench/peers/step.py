"""A training step of PyTorch + PEFT, or a forward pass, on given token ids: the peer of `hone bench step`.

    python step.py --model DIR --ids FILE --method lora|full|forward --dtype bf16|f32 [--compile] [--precision medium]

FILE is a JSON list of batches, each a list of rows of ids. Prints one JSON line.
"""

import argparse
import json
import statistics
import time

from common import cpu_seconds, peak_rss_mib, settle

arguments = argparse.ArgumentParser()
arguments.add_argument("--model", required=True)
arguments.add_argument("--ids", required=True)
arguments.add_argument("--method", choices=["lora", "full", "forward"], default="lora")
arguments.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
arguments.add_argument("--rank", type=int, default=16)
arguments.add_argument("--steps", type=int, default=10)
arguments.add_argument("--warmup", type=int, default=3)
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--compile", action="store_true")
arguments.add_argument("--precision", choices=["highest", "high", "medium"], default="highest")
arguments.add_argument("--learning-rate", type=float, default=2e-4)
a = arguments.parse_args()
settle(a.threads)

import torch
import transformers
from transformers import AutoModelForCausalLM

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(a.threads)
torch.manual_seed(0)
torch.set_float32_matmul_precision(a.precision)
dtype = torch.bfloat16 if a.dtype == "bf16" else torch.float32
model = AutoModelForCausalLM.from_pretrained(a.model, dtype=dtype, attn_implementation="sdpa")
model.config.use_cache = False
optimiser = None
if a.method == "lora":
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        model,
        LoraConfig(
            r=a.rank, lora_alpha=2 * a.rank, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", target_modules="all-linear"
        ),
        autocast_adapter_dtype=False,
    )
if a.method != "forward":
    model.train()
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=a.learning_rate, weight_decay=0.0
    )
else:
    model.eval()
run = torch.compile(model) if a.compile else model
batches = [torch.tensor(batch) for batch in json.load(open(a.ids))]

seconds, losses, before = [], [], 0.0
for step in range(a.warmup + a.steps):
    if step == a.warmup:
        before = cpu_seconds()
    ids = batches[step % len(batches)]
    start = time.perf_counter()
    if optimiser is None:
        with torch.no_grad():
            loss = run(input_ids=ids, labels=ids, use_cache=False).loss.item()
    else:
        output = run(input_ids=ids, labels=ids, use_cache=False).loss
        output.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        loss = output.item()
    if step >= a.warmup:
        seconds.append(time.perf_counter() - start)
    losses.append(loss)
median = statistics.median(seconds)
print(
    json.dumps(
        {
            "tokens_per_second": batches[0].numel() / median,
            "step_seconds_median": median,
            "cpu_seconds_per_step": (cpu_seconds() - before) / a.steps,
            "peak_rss_mib": peak_rss_mib(),
            "loss_first": losses[0],
            "loss_last": losses[-1],
            "version": f"torch {torch.__version__}, transformers {transformers.__version__}",
        }
    )
)
