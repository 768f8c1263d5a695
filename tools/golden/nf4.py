#!/usr/bin/env python3
"""Golden values of NF4, the 4-bit numbers of QLoRA, from bitsandbytes on a CPU.

    pip install bitsandbytes numpy
    python tools/golden/nf4.py crates/hone-engine/tests/golden/nf4

Blocks of 64 values with one f32 scale (the largest magnitude) each, two codes to a byte, the first in the high nibble; a
value halfway between two levels takes the lower one. With double quantisation the scales, less their mean, are kept in
8 bits: blocks of 256 scales, each with an f32 scale of its own, in a dynamic 8-bit code. Writes little-endian files:

- `values.f32` [16, 256]: awkward blocks (zeros; one value; the levels; the midpoints between levels and their neighbours;
  several values of the largest magnitude; magnitudes of 1e-30 and 1e30), then ordinary ones;
- `levels.f32` [16], `codes.u8` [2048], `scales.f32` [64], and `back.f32` [16, 256], what they expand to;
- `double_values.f32` [80, 256], ordinary blocks; `double_codes.u8` [10240]; `double_code.f32` [256], the 8-bit code;
  `double_scales.u8` [320]; `double_absmax.f32` [2]; `double_mean.f32` [1]; and `double_back.f32` [80, 256].
"""
import pathlib
import sys

import numpy as np
import torch
from bitsandbytes import functional as bnb

ROWS, COLUMNS, BLOCK = 80, 256, 64


def values() -> np.ndarray:
    rng = np.random.default_rng(20261126)
    blocks = (rng.standard_normal((ROWS * COLUMNS // BLOCK, BLOCK)) * 0.02).astype(np.float32)
    blocks *= np.exp(rng.standard_normal((len(blocks), 1))).astype(np.float32)
    return blocks


def awkward(blocks: np.ndarray, levels: np.ndarray) -> np.ndarray:
    blocks = blocks.copy()
    middles = ((levels[1:] + levels[:-1]) / np.float32(2)).astype(np.float32)
    up, down = np.nextafter(middles, np.float32(2)), np.nextafter(middles, np.float32(-2))
    blocks[0] = 0.0
    blocks[1] = 0.0
    blocks[1, 5] = -0.25
    blocks[2] = np.tile(levels, 4)
    blocks[3, :61] = np.concatenate([middles, up, down, levels])
    blocks[3, 61:] = 0.0
    blocks[4] = np.tile([0.5, -0.5], 32)
    blocks[5] *= np.float32(1e-30)
    blocks[6] *= np.float32(1e30)
    return blocks


def write(out: pathlib.Path, name: str, array) -> None:
    array = array.numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
    kind = "u8" if array.dtype == np.uint8 else "f32"
    (out / f"{name}.{kind}").write_bytes(array.astype("u1" if kind == "u8" else "<f4").tobytes())


def main(out: pathlib.Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    plain = torch.from_numpy(values().reshape(ROWS, COLUMNS))
    _, state = bnb.quantize_4bit(plain, blocksize=BLOCK, quant_type="nf4")
    levels = state.code.numpy()
    x = torch.from_numpy(awkward(values(), levels).reshape(ROWS, COLUMNS)[:16].copy())
    codes, state = bnb.quantize_4bit(x, blocksize=BLOCK, quant_type="nf4")
    write(out, "values", x)
    write(out, "levels", levels)
    write(out, "codes", codes)
    write(out, "scales", state.absmax)
    write(out, "back", bnb.dequantize_4bit(codes, state))

    codes, state = bnb.quantize_4bit(plain, blocksize=BLOCK, quant_type="nf4", compress_statistics=True)
    write(out, "double_values", plain)
    write(out, "double_codes", codes)
    write(out, "double_code", state.state2.code)
    write(out, "double_scales", state.absmax)
    write(out, "double_absmax", state.state2.absmax)
    write(out, "double_mean", state.offset.reshape(1))
    write(out, "double_back", bnb.dequantize_4bit(codes, state))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
