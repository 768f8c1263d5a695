"""Golden values for hone-engine's optimiser updates, from torch.optim and torch.nn.utils.clip_grad_norm_.

Run: python tools/golden/optimisers.py > crates/hone-engine/tests/golden/optimisers.json      (needs torch)
"""

import json

import torch

STEPS = 5
SHAPES = [(3, 4), (7,)]
RATES = [1e-2, 2e-2, 1e-2, 5e-3, 1e-3]
CASES = {
    "adamw": (torch.optim.AdamW, dict(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)),
    "adamw_decay": (torch.optim.AdamW, dict(betas=(0.8, 0.95), eps=1e-5, weight_decay=0.3)),
    "sgd": (torch.optim.SGD, dict(momentum=0.0, dampening=0.0, weight_decay=0.1, nesterov=False)),
    "sgd_momentum": (torch.optim.SGD, dict(momentum=0.9, dampening=0.2, weight_decay=0.0, nesterov=False)),
    "sgd_nesterov": (torch.optim.SGD, dict(momentum=0.9, dampening=0.0, weight_decay=0.1, nesterov=True)),
}

torch.manual_seed(0)
start = [torch.randn(s) for s in SHAPES]
gradients = [[torch.randn(s) * 3 for s in SHAPES] for _ in range(STEPS)]
flat = lambda tensors: [t.detach().flatten().tolist() for t in tensors]

out = {"start": flat(start), "gradients": [flat(g) for g in gradients], "rates": RATES, "max_norm": 5.0, "cases": {}}
norms = []
for name, (optimiser, options) in CASES.items():
    params = [t.clone().requires_grad_() for t in start]
    optimiser = optimiser(params, lr=RATES[0], foreach=False, **options)
    values, norms = [], []
    for rate, step in zip(RATES, gradients):
        for group in optimiser.param_groups:
            group["lr"] = rate
        for p, g in zip(params, step):
            p.grad = g.clone()
        norms.append(torch.nn.utils.clip_grad_norm_(params, out["max_norm"]).item())
        optimiser.step()
        values.append(flat(params))
    out["cases"][name] = {"options": options, "params": values}
out["norms"] = norms
print(json.dumps(out))
