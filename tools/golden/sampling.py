"""What is left of logits after the sampling filters of `transformers`, in the order `generate` applies them.

    python sampling.py crates/hone-model/tests/golden/sampling.safetensors

Each row of `settings` is temperature, top_k, top_p, min_p, repetition_penalty; `processed.N` are the logits after row N
(minus infinity where a token was dropped). Needs `torch`, `transformers`, `safetensors`.
"""

import sys

import torch
from safetensors.torch import save_file
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

ROWS, VOCABULARY, SEEN = 5, 64, 12
SETTINGS = [
    (1.0, 0, 1.0, 0.0, 1.0),
    (0.7, 0, 1.0, 0.0, 1.0),
    (1.0, 8, 1.0, 0.0, 1.0),
    (1.0, 0, 0.9, 0.0, 1.0),
    (1.3, 0, 0.5, 0.0, 1.0),
    (1.0, 0, 1.0, 0.1, 1.0),
    (1.0, 0, 1.0, 0.0, 1.3),
    (0.8, 20, 0.95, 0.05, 1.1),
    (2.0, 40, 0.8, 0.02, 0.9),
]

generator = torch.Generator().manual_seed(0)
logits = 3 * torch.randn(ROWS, VOCABULARY, generator=generator)
seen = torch.randint(VOCABULARY, (ROWS, SEEN), generator=generator)
golden = {"logits": logits, "seen": seen.to(torch.int32), "settings": torch.tensor(SETTINGS)}
for i, (temperature, top_k, top_p, min_p, penalty) in enumerate(SETTINGS):
    processors = LogitsProcessorList()
    if penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(penalty))
    if temperature != 1.0:
        processors.append(TemperatureLogitsWarper(temperature))
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        processors.append(TopPLogitsWarper(top_p))
    if min_p:
        processors.append(MinPLogitsWarper(min_p))
    golden[f"processed.{i}"] = processors(seen, logits.clone()).contiguous()
save_file(golden, sys.argv[1])
