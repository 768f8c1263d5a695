#!/usr/bin/env python3
"""Golden Q4_K blocks, by llama.cpp's own quantiser.

    pip install llama-cpp-python numpy
    python tools/golden/quant_k.py crates/hone-engine/tests/golden/quant

The `gguf` package expands Q4_K and does not write it, so this calls `ggml_quantize_chunk` of the library that llama-cpp-python
brings. Reads `quantise.values` (by quant_blocks.py: 3 rows of 512 values); writes `Q4_K.quantised`.
"""
import ctypes
import pathlib
import sys

import llama_cpp
import numpy as np

Q4_K, BLOCK_BYTES, BLOCK_VALUES = 12, 144, 256


def main(out: pathlib.Path) -> None:
    x = np.fromfile(out / "quantise.values", "<f4").reshape(3, 512)
    library = next((pathlib.Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.so*"))
    quantise = ctypes.CDLL(str(library)).ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    quantise.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    blocks = np.zeros(x.size // BLOCK_VALUES * BLOCK_BYTES, np.uint8)
    written = quantise(Q4_K, x.ctypes.data, blocks.ctypes.data, 0, *x.shape, None)
    assert written == blocks.size, written
    (out / "Q4_K.quantised").write_bytes(blocks.tobytes())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
