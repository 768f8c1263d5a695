"""Pictures of the bench, as SVG.

    python plot.py loss --data FILE.json --title TEXT --out FILE.svg
    python plot.py growth --data FILE.json --title TEXT --label "tokens a sequence" --out FILE.svg

`loss`: FILE holds `ours` and `theirs`, lists of losses. `growth`: FILE holds `points`, each with `at`, `tokens_per_second` and
`peak_rss_mib` (and `series`, if there are several), and `ticks`, if what is varied has names.
"""

import argparse
import json

arguments = argparse.ArgumentParser()
arguments.add_argument("what", choices=["loss", "growth"])
arguments.add_argument("--data", required=True)
arguments.add_argument("--title", required=True)
arguments.add_argument("--label", default="")
arguments.add_argument("--against", default="PyTorch + PEFT")
arguments.add_argument("--out", required=True)
a = arguments.parse_args()

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

plt.rcParams.update(
    {
        "svg.hashsalt": "hone",  # the same picture is the same file
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e4e4e4",
        "axes.axisbelow": True,
        "figure.facecolor": "white",
        "axes.facecolor": "white",
        "legend.frameon": False,
    }
)
COLOURS = ["#1f5fa8", "#d9730d", "#3a8f5c", "#8a4fa3"]
data = json.load(open(a.data))


def loss():
    ours, theirs = data["ours"], data["theirs"]
    width = min(10, len(ours))
    means = [[sum(x[i : i + width]) / width for i in range(len(x) - width + 1)] for x in (ours, theirs)]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 5), sharex=True, height_ratios=[3, 1.4])
    steps, at = range(1, len(ours) + 1), range(width, len(ours) + 1)
    top.plot(steps, ours, color=COLOURS[0], alpha=0.25, linewidth=0.8)
    top.plot(at, means[1], color=COLOURS[1], linewidth=3, alpha=0.6, label=a.against)
    top.plot(at, means[0], color=COLOURS[0], linewidth=1.3, label="Hone")
    top.set_ylabel("loss (mean of 10 steps)")
    top.legend()
    bottom.plot(steps, [100 * (x - y) / y for x, y in zip(ours, theirs)], color=COLOURS[0], linewidth=0.9)
    bottom.set_ylabel("difference, %")
    bottom.set_xlabel("step")
    return figure


def growth():
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.2))
    names = list(dict.fromkeys(p.get("series", "") for p in data["points"]))
    places = sorted({p["at"] for p in data["points"]})
    apart = len(places) > 2 and places[-1] / max(places[0], 1e-9) >= 16
    for axis, key, label in zip(panels, ("tokens_per_second", "peak_rss_mib"), ("tokens/s", "peak memory, MiB")):
        for name, colour in zip(names, COLOURS):
            points = sorted((p["at"], p[key]) for p in data["points"] if p.get("series", "") == name)
            axis.plot(*zip(*points), marker="o", markersize=4, color=colour, label=name or None)
        # Memory is drawn to a plain scale where it should be a straight line.
        logarithmic = apart and not (key == "peak_rss_mib" and data.get("straight"))
        if logarithmic:
            axis.set_xscale("log", base=2)
        if data.get("tall"):
            axis.set_yscale("log")
        else:
            axis.set_ylim(0, 1.06 * axis.dataLim.ymax)
        axis.set_xlabel(a.label)
        axis.set_ylabel(label)
        if logarithmic or len(places) < 6:
            named = data.get("ticks")
            turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if named else {}
            axis.set_xticks(places, named or [f"{p:g}" for p in places], fontsize=8, **turned)
            axis.minorticks_off()
        if any(names):
            axis.legend(fontsize=8)
    return figure


figure = loss() if a.what == "loss" else growth()
figure.suptitle(a.title, fontsize=11)
figure.tight_layout()
figure.savefig(a.out, metadata={"Date": None})
print(json.dumps({"out": a.out}))
