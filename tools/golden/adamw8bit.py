"""Golden values for hone-engine's 8-bit moments, from bitsandbytes: the two maps of codes, and blocks of numbers in them.

Run: python tools/golden/adamw8bit.py > crates/hone-engine/tests/golden/adamw8bit.json      (needs torch, bitsandbytes)
"""

import json

import torch
from bitsandbytes.functional import create_dynamic_map, dequantize_blockwise, quantize_blockwise

BLOCK = 256
torch.manual_seed(0)
out = {"block": BLOCK}
for name, signed in (("signed", True), ("squares", False)):
    codes = create_dynamic_map(signed=signed).float()
    # Magnitudes over all decades; the last block is not whole.
    values = torch.randn(2 * BLOCK + 40) * 10 ** (-4 * torch.rand(2 * BLOCK + 40))
    values = values if signed else values.square()
    found, state = quantize_blockwise(values, code=codes, blocksize=BLOCK)
    out[name] = {
        "codes": codes.tolist(),
        "values": values.tolist(),
        "found": found.flatten().tolist(),
        "scales": state.absmax.tolist(),
        "read_back": dequantize_blockwise(found, state).tolist(),
    }
print(json.dumps(out))
