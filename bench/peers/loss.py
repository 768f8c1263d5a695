"""The loss curve of PyTorch on given rows, of LoRA from a given adapter (PEFT) or of full tuning: the peer of `hone tune`.

    python loss.py --model DIR --adapter DIR --ids FILE --dtype bf16|f32 --steps 200 --learning-rate 1e-3
    python loss.py --model DIR --ids FILE --dtype bf16|f32 --steps 200 --learning-rate 5e-5

FILE is a JSON list of batches, each a list of rows of ids, taken in turn. Losses are means over a batch's targets; AdamW
without decay, gradients clipped to norm 1, a constant learning rate. Frozen weights and activations are in `dtype`, what is
trained in f32, so that without an adapter every weight is. Prints one JSON line.
"""

import argparse
import json
import time

from common import peak_rss_mib, settle

arguments = argparse.ArgumentParser()
arguments.add_argument("--model", required=True)
arguments.add_argument("--adapter")
arguments.add_argument("--ids", required=True)
arguments.add_argument("--dtype", choices=["bf16", "f32"], required=True)
arguments.add_argument("--steps", type=int, default=200)
arguments.add_argument("--learning-rate", type=float, default=1e-3)
arguments.add_argument("--threads", type=int, default=2)
a = arguments.parse_args()
settle(a.threads)

import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM

transformers.utils.logging.set_verbosity_error()
torch.set_num_threads(a.threads)
dtype = torch.bfloat16 if a.dtype == "bf16" else torch.float32
kept = dtype if a.adapter else torch.float32
model = AutoModelForCausalLM.from_pretrained(a.model, dtype=kept, attn_implementation="sdpa")
model.config.use_cache = False
if a.adapter:
    model = PeftModel.from_pretrained(model, a.adapter, is_trainable=True, autocast_adapter_dtype=True)
model.train()
trained = [p for p in model.parameters() if p.requires_grad]
assert all(p.dtype == torch.float32 for p in trained)
optimiser = torch.optim.AdamW(trained, lr=a.learning_rate, weight_decay=0.0)
batches = [torch.tensor(batch) for batch in json.load(open(a.ids))]
losses, start = [], time.perf_counter()
for step in range(a.steps):
    ids = batches[step % len(batches)]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.dtype == "bf16"):
        logits = model(input_ids=ids, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    losses.append(loss.item())
print(
    json.dumps(
        {
            "losses": losses,
            "loss_first": losses[0],
            "seconds": time.perf_counter() - start,
            "peak_rss_mib": peak_rss_mib(),
            "version": f"torch {torch.__version__}, transformers {transformers.__version__}",
        }
    )
)
