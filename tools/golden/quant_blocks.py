#!/usr/bin/env python3
"""Golden values of GGUF blocks, from the `gguf` package (the Python side of llama.cpp).

    pip install gguf numpy
    python tools/golden/quant_blocks.py crates/hone-engine/tests/golden/quant

Writes for every block type `NAME.blocks` (random blocks, 3 rows of 512 values) and `NAME.values` (what they expand to,
little-endian f32); and `quantise.values` (3 rows of 512 values with awkward blocks among them) with `NAME.quantised` for the
types that are written.
"""
import pathlib
import sys

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

ROWS, COLUMNS = 3, 512
# Where each type keeps binary16 numbers: random bytes there could be infinite.
HALVES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}


def main(out: pathlib.Path) -> None:
    rng = np.random.default_rng(20261122)
    out.mkdir(parents=True, exist_ok=True)
    for kind, places in HALVES.items():
        values, size = GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (ROWS * COLUMNS // values, size), dtype=np.uint8)
        for place in places:
            half = (rng.standard_normal(len(blocks)) * 10.0 ** rng.integers(-6, 3, len(blocks))).astype(np.float16)
            blocks[:, place : place + 2] = half.view(np.uint8).reshape(-1, 2)
        (out / f"{kind.name}.blocks").write_bytes(blocks.tobytes())
        (out / f"{kind.name}.values").write_bytes(dequantize(blocks, kind).astype("<f4").tobytes())
    for kind, dtype in [(Type.F16, np.float16), (Type.BF16, None)]:
        wide = (rng.standard_normal((ROWS, COLUMNS)) * 10.0 ** rng.integers(-7, 4, (ROWS, COLUMNS))).astype(np.float32)
        blocks = wide.astype(dtype).view(np.uint8) if dtype else quantize(wide, kind)
        (out / f"{kind.name}.blocks").write_bytes(blocks.tobytes())
        (out / f"{kind.name}.values").write_bytes(dequantize(blocks, kind).astype("<f4").tobytes())

    x = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    x[0, :32] = 0.0  # no scale at all
    x[0, 32:64] = np.linspace(-1, 1, 32)  # halves to be rounded
    x[0, 64:96] = np.tile([3.0, -3.0], 16)  # several values of the largest magnitude, the first positive
    x[0, 96:128] = np.tile([-3.0, 3.0], 16)  # ... and negative
    x[1, :32] *= 1e-6  # scale below the smallest normal binary16
    x[1, 32:64] *= 1e4
    x[2, :32] = np.arange(-16, 16) / 8.0
    (out / "quantise.values").write_bytes(x.astype("<f4").tobytes())
    for kind in [Type.Q8_0, Type.Q5_0, Type.Q4_0, Type.F16, Type.BF16]:
        (out / f"{kind.name}.quantised").write_bytes(quantize(x, kind).tobytes())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
