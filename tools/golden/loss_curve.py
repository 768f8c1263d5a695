"""Golden training run: PyTorch + PEFT on stories260k, its first gradients and its loss curve.

    python tools/golden/loss_curve.py

Needs torch, transformers, peft, safetensors, tokenizers. Reads assets/stories260k; writes
crates/hone-train/tests/golden/loss_curve/: `run.json` (token ids, trained flags, settings, losses, gradient norms),
`adapter/` (where the run starts; B is random so that A has a gradient), `gradients.safetensors` (of the first step, before
clipping).

The objective is the one of `hone-train`: the sum of -ln p over the trained tokens of a step, divided by their number, over
both micro-batches of the step. The learning rate is `hone-train`'s too: a linear warm-up that starts at 1/warmup, then half
a cosine to 0.
"""
import json
import math
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
STORIES = ROOT / "assets" / "stories260k"
OUT = ROOT / "crates" / "hone-train" / "tests" / "golden" / "loss_curve"
SETTINGS = dict(
    steps=40, batch_size=3, gradient_accumulation=2, learning_rate=5e-3, warmup_steps=4, weight_decay=0.01,
    betas=[0.9, 0.999], eps=1e-8, max_grad_norm=1.0,
)
NAMES = ["Tim", "Lily", "Ben", "Sue", "Tom", "Mia"]
THINGS = ["a red ball", "a small dog", "a big box", "an old tree", "a warm hat"]
PLACES = ["in the park", "at home", "by the lake", "under the bed"]


def examples():
    """Sentences of uneven length; the first words are read, the rest is trained."""
    tokenizer = Tokenizer.from_file(str(STORIES / "tokenizer.json"))
    made = []
    for i in range(30):
        name, thing, place = NAMES[i % 6], THINGS[i % 5], PLACES[i % 4]
        prompt = f"Once upon a time, {name} saw {thing}."
        answer = f" {name} ran to it {place} and said: look!" * (1 + i % 3)
        head, whole = tokenizer.encode(prompt).ids, tokenizer.encode(prompt + answer).ids
        ids = [1] + whole + [2]
        made.append({"ids": ids, "trained": [n >= 1 + len(head) for n in range(len(ids))]})
    return made


def learning_rate(step):
    warmup, total = SETTINGS["warmup_steps"], SETTINGS["steps"]
    if step < warmup:
        return SETTINGS["learning_rate"] * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return SETTINGS["learning_rate"] * 0.5 * (1 + math.cos(math.pi * done))


torch.manual_seed(11)
model = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32)
model.name_or_path = "stories260k"
model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
with torch.no_grad():
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.normal_(std=0.02)
shutil.rmtree(OUT, ignore_errors=True)
model.save_pretrained(OUT / "adapter")
(OUT / "adapter" / "README.md").unlink(missing_ok=True)
trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
optimizer = torch.optim.AdamW(
    trained.values(), lr=1.0, betas=SETTINGS["betas"], eps=SETTINGS["eps"], weight_decay=SETTINGS["weight_decay"]
)
data, losses, norms, at = examples(), [], [], 0
for step in range(SETTINGS["steps"]):
    rows = [data[(at + i) % len(data)] for i in range(SETTINGS["batch_size"] * SETTINGS["gradient_accumulation"])]
    at += len(rows)
    tokens = sum(sum(row["trained"]) for row in rows)
    total = 0.0
    optimizer.zero_grad()
    for row in rows:
        ids, mask = torch.tensor(row["ids"]), torch.tensor(row["trained"])
        logits = model(ids[None]).logits[0]
        nll = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")
        loss = (nll * mask[1:]).sum() / tokens
        loss.backward()
        total += loss.item()
    if step == 0:
        gradients = {n.replace(".default", ""): p.grad.clone().contiguous() for n, p in trained.items()}
        save_file(gradients, OUT / "gradients.safetensors")
    norms.append(torch.nn.utils.clip_grad_norm_(trained.values(), SETTINGS["max_grad_norm"]).item())
    losses.append(total)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step)
    optimizer.step()
run = {"settings": SETTINGS, "losses": losses, "gradient_norms": norms, "examples": data}
(OUT / "run.json").write_text(json.dumps(run) + "\n")
print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}; norms {min(norms):.3f} to {max(norms):.3f}")
