"""How Hone's training step grows: tokens/s and memory against length, batch, model, rank and threads. No peer."""

import json

from . import page
from .pairs import stamp
from .setup import MODEL, ROOT, WORK, Failed, hone_json, peer, say

# (name, millions of parameters, what `hone` is given)
MODELS = [
    ("stories260k", 0.26, str(ROOT / "assets" / "stories260k")),
    ("SmolLM2-135M", 134.5, str(MODEL)),
    ("Gemma-3-270M", 268.1, "gemma-3-270m"),
    ("Qwen2.5-0.5B", 494.0, "qwen2.5-coder-0.5b-instruct"),
    ("Qwen2.5-1.5B", 1543.7, "qwen2.5-coder-1.5b-instruct"),
]
STEPS, WARMUP = 3, 1


def jobs(a):
    small = a.quick
    lengths = [64, 128, 256] if small else [128, 256, 512, 1024, 2048, 4096]
    batches, ranks = ([1, 2], [4, 8]) if small else ([1, 2, 4, 8, 16, 32], [4, 16, 64, 256])
    seq = 64 if small else 256
    yield job("length", "tokens a sequence", "against sequence length (batch 1)", True, by_length(lengths))
    yield job("batch", "sequences a batch", f"against batch size (length {seq})", False, [
        ({}, {"batch": b, "seq": seq}, b) for b in batches
    ])
    yield job("model", "million parameters", f"against model size (batch 1, length {seq})", False, [
        ({}, {"model": m, "batch": 1, "seq": seq, "label": name}, size) for name, size, m in MODELS[: 2 if small else None]
    ])
    yield job("rank", "LoRA rank", f"against LoRA rank (batch 4, length {seq})", False, [
        ({}, {"batch": 4, "seq": seq, "rank": r}, r) for r in ranks
    ])
    yield job("threads", "threads", f"against threads (batch 4, length {seq})", False, [
        ({}, {"batch": 4, "seq": seq, "threads": t}, t) for t in range(1, a.threads + 1)
    ])
    if not small:
        yield "recomputation", "Hone", large_model


def by_length(lengths):
    return [
        ({"series": name}, {"batch": 1, "seq": n, "recompute": recompute}, n)
        for name, recompute in (("all activations kept", False), ("recomputed", True))
        for n in lengths
    ]


def run(a, batch, seq, model=None, rank=16, threads=None, recompute=False, label=None):
    shape = ["--model", model or MODEL, "--batch", batch, "--seq", seq, "--rank", rank, "--threads", threads or a.threads]
    more = ["--recompute"] if recompute else []
    return hone_json("bench", "step", *shape, "--steps", STEPS, "--warmup", WARMUP, *more)


def job(what, label, title, straight, points):
    def rows(a):
        measured, left_out = [], []
        for series, shape, at in points:
            try:
                found = run(a, **shape)
            except Failed as problem:
                # A model that is not in the cache, or a batch that does not fit this machine, is a gap and is named.
                name = shape.get("label") or f"{label} {at}"
                say(f"  left out {name}: {str(problem)[-300:]}")
                left_out.append(name)
                continue
            keys = ("tokens_per_second", "peak_rss_mib", "ceiling_share")
            measured.append({**series, "at": at, "label": shape.get("label"), **{k: found[k] for k in keys}})
            say(f"  {what} {at} {series.get('series', '')}: {found['tokens_per_second']:.0f} tokens/s, {found['peak_rss_mib']:.0f} MiB")
        if len(measured) < 2:
            raise Failed("fewer than two points were measured")
        data = WORK / f"growth-{what}.json"
        named = [p["label"] for p in sorted(measured, key=lambda p: p["at"])] if measured[0]["label"] else None
        drawn = {"points": measured, "straight": straight, "tall": what == "model", "ticks": named}
        data.write_text(json.dumps(drawn))
        title_of = f"LoRA step {title}, bf16"
        picture = f"growth-{what}.svg"
        peer("plot.py", "growth", "--data", data, "--title", title_of, "--label", "" if named else label, "--out", page.picture(picture))
        said = f"**{title_of}**: {summary(measured, label, named)}"
        if straight:
            said += " " + "; ".join(fit(name, points) for name, points in by_series(measured)) + "."
        if left_out:
            said += f" Not measured here: {', '.join(left_out)}."
        row = {"name": f"growth: {what}", "against": "Hone", "said": said, "plot": picture, "rounds": 1, "points": measured}
        yield stamp(row, a)

    return f"growth: {what}", "Hone", rows


def by_series(points):
    names = dict.fromkeys(p.get("series", "") for p in points)
    return [(name, [p for p in points if p.get("series", "") == name]) for name in names]


def summary(points, label, named):
    """First and last point in words."""
    told = []
    for name, some in by_series(points):
        ends = [some[0], some[-1]]
        told.append((f"{name}: " if name else "") + ", then ".join(
            f"{p['tokens_per_second']:.0f} tokens/s and {p['peak_rss_mib']:.0f} MiB at "
            + (p["label"] if named else place(p["at"], label))
            for p in ends
        ))
    return "; ".join(told) + "."


def place(at, label):
    return f"{label} {at:g}" if label == "LoRA rank" else f"{at:g} {label}"


def fit(name, points):
    """Least squares of memory over length, and the share of its variance that the line explains."""
    x, y = [p["at"] for p in points], [p["peak_rss_mib"] for p in points]
    if len(x) < 3:
        return f"too few points for a line ({name})"
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x) ** 2 for a in x)
    left = sum((b - mean_y - slope * (a - mean_x)) ** 2 for a, b in zip(x, y))
    explained = 1 - left / sum((b - mean_y) ** 2 for b in y)
    what = f"memory ({name})" if name else "memory"
    return f"{what} is {mean_y - slope * mean_x:.0f} MiB + {slope:.3f} MiB a token, R² = {explained:.4f}"


def large_model(a):
    """The largest model at length 1,024 with recomputation: does it fit into 12 GB?"""
    name, _, model = MODELS[-1]
    found = run(a, batch=1, seq=1024, model=model, recompute=True)
    said = (
        f"**{name}, LoRA r=16, bf16, length 1,024, layers recomputed**: {found['peak_rss_mib'] / 1024:.2f} GiB at its highest "
        f"(12 GB asked for), {found['tokens_per_second']:.0f} tokens/s."
    )
    kept = {k: found[k] for k in ("peak_rss_mib", "tokens_per_second")}
    row = {"name": "growth: recomputation", "against": "Hone", "said": said, "rounds": 1, "ours": kept}
    yield stamp(row, a)
