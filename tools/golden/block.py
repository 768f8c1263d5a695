"""Golden values for hone-engine's operations together: a half block with LoRA under a cross-entropy, from torch and
transformers' own norms.

Run: python tools/golden/block.py > crates/hone-engine/tests/golden/block.json      (needs torch, transformers)
"""

import json
import types

import torch
import torch.nn.functional as F
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

TOKENS, WIDTH, INNER, VOCABULARY, RANK, EPS, SCALE = 6, 16, 24, 32, 2, 1e-5, 1.5
torch.manual_seed(0)
shapes = {
    "x": (TOKENS, WIDTH), "norm": (WIDTH,), "gate": (INNER, WIDTH), "up": (INNER, WIDTH), "down": (WIDTH, INNER),
    "a": (RANK, INNER), "b": (WIDTH, RANK), "final_norm": (WIDTH,), "head": (VOCABULARY, WIDTH),
}
values = {name: (torch.randn(shape) * 0.5).requires_grad_() for name, shape in shapes.items()}
v = types.SimpleNamespace(**values)
targets = torch.tensor([3, -100, 31, 0, 7, -100])


def rms_norm(kind, x, weight):
    norm = kind(x.shape[-1], eps=EPS).to(x.dtype)
    del norm._parameters["weight"]
    norm.weight = weight
    return norm(x)


h = rms_norm(LlamaRMSNorm, v.x, v.norm)
act = F.silu(h @ v.gate.T) * (h @ v.up.T)
y = act @ v.down.T + SCALE * (act @ v.a.T @ v.b.T)
hidden = rms_norm(Gemma3RMSNorm, v.x + y, v.final_norm)
loss = F.cross_entropy(hidden @ v.head.T, targets, ignore_index=-100)
loss.backward()

narrow = torch.randn(8, 64).bfloat16()
weight = torch.randn(64).bfloat16()
flat = lambda t: t.detach().float().flatten().tolist()
print(json.dumps({
    "shapes": shapes,
    "values": {name: flat(t) for name, t in values.items()},
    "targets": targets.tolist(),
    "loss": loss.item(),
    "gradients": {name: flat(t.grad) for name, t in values.items()},
    "bf16": {
        "x": flat(narrow),
        "weight": flat(weight),
        "llama": flat(rms_norm(LlamaRMSNorm, narrow, weight)),
        "gemma": flat(rms_norm(Gemma3RMSNorm, narrow, weight)),
    },
}))
