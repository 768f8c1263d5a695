"""Hashes of every tensor of the converted GGUF models, for `crates/hone-model/tests/gguf_models.rs`.

    python gguf_tensors.py OUT REF/smollm2 REF/gemma3 REF/qwen25

REF is what `convert_gguf.py` wrote. A tensor's hash is the first 12 hexadecimal digits of the SHA-256 of its f32 values,
little-endian; a file for each model holds `name hash` lines, sorted by name. Needs `numpy`, `safetensors`.
"""

import hashlib
import pathlib
import sys

from safetensors.numpy import load_file

out = pathlib.Path(sys.argv[1])
for directory in map(pathlib.Path, sys.argv[2:]):
    tensors = load_file(directory / "model.safetensors")
    digest = lambda name: hashlib.sha256(tensors[name].astype("<f4").tobytes()).hexdigest()[:12]
    lines = [f"{name} {digest(name)}\n" for name in sorted(tensors)]
    (out / f"gguf_tensors_{directory.name}.txt").write_text("".join(lines))
