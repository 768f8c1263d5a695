"""Golden decompositions of small matrices, by torch.

    python tools/golden/decompositions.py

Needs torch and safetensors. Writes crates/hone-edit/tests/golden/decompositions.safetensors: for each matrix its singular
values and vectors, Q and R, for the square ones the eigenvectors of M + Mᵀ, and the effective rank. Signs, which torch
leaves as they come, are fixed as `hone_edit::decompose` says.
"""
from pathlib import Path

import torch
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parents[2] / "crates/hone-edit/tests/golden/decompositions.safetensors"


def signs(columns):
    """±1 a column: the sign of its entry of largest magnitude."""
    return columns.gather(0, columns.abs().argmax(0, keepdim=True)).sign()


def main():
    torch.manual_seed(20261126)
    matrices = {
        "tall": torch.randn(12, 7),
        "wide": torch.randn(5, 9),
        "square": torch.randn(8, 8),
        "steep": torch.randn(20, 10) * torch.logspace(0, -5, 10),  # singular values over five decades
    }
    out = {}
    for name, matrix in matrices.items():
        m = matrix.double()
        u, s, vt = torch.linalg.svd(m, full_matrices=False)
        turn = signs(u)
        q, r = torch.linalg.qr(m)
        up = torch.where(r.diagonal() < 0, -1.0, 1.0).double()
        shares = s / s.sum()
        parts = {
            "matrix": matrix, "u": u * turn, "s": s, "vt": vt * turn.T, "q": q * up, "r": r * up[:, None],
            "effective_rank": (-(shares * shares.log()).sum()).exp()[None],
        }
        if m.shape[0] == m.shape[1]:
            values, vectors = torch.linalg.eigh(m + m.T)
            vectors = vectors.flip(1)
            parts |= {"eigenvalues": values.flip(0), "eigenvectors": vectors * signs(vectors)}
        out |= {f"{name}.{key}": value.float().contiguous() for key, value in parts.items()}
    save_file(out, OUT)
    print(OUT, OUT.stat().st_size, "bytes")


main()
