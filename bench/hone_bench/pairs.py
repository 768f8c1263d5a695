"""Two programs in turn, A B A B, and what is kept of them."""

import datetime
import os
import platform
import statistics
import time

from .setup import Failed, say


def processor():
    try:
        for line in open("/proc/cpuinfo"):
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "an unnamed processor"


def stamp(row, a):
    """What every row says of where and when it was measured."""
    return {
        **row,
        "date": str(datetime.date.today()),
        "processor": processor(),
        "threads": a.threads,
        "load": round(os.getloadavg()[0], 2),
    }


def alternate(a, name, against, target, ours, theirs, figures, agree=lambda a, b: None):
    """Runs both in turn and yields a row for each of `figures`: (figure, "more" or "less" is better, row's name or None).

    `agree(a, b)` says why the two did not do the same, if so; such a row does not count. Several figures share their runs.
    """
    pairs = []
    for n in range(a.rounds):
        begin = time.perf_counter()
        x = ours()
        middle = time.perf_counter()
        y = theirs()
        end = time.perf_counter()
        say(f"  {name}: round {n + 1} of {a.rounds}, {middle - begin:.0f} s ours, {end - middle:.0f} s theirs")
        problem = agree(x, y)
        if problem:
            raise Failed(f"not the same: {problem}")
        pairs.append((x, y))
    rows = []
    for figure, better, label, aim in figures:
        ratios = [x[figure] / y[figure] if better == "more" else y[figure] / x[figure] for x, y in pairs]
        ours, theirs = pairs[ratios.index(sorted(ratios)[(len(ratios) - 1) // 2])]
        row = {
            "name": label or name,
            "against": against,
            "target": aim or target,
            "figure": figure,
            "rounds": a.rounds,
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
            "ours": kept(ours),
            "theirs": kept(theirs),
            "versions": theirs.get("version"),
        }
        memory = [x["peak_rss_mib"] / y["peak_rss_mib"] for x, y in pairs if x.get("peak_rss_mib") and y.get("peak_rss_mib")]
        row["memory"] = statistics.median(memory) if memory else None
        rows.append(stamp(row, a))
    return rows


def fastest(what, settings, run, figure, better):
    """Runs a peer once at each setting: the best of them, and all that ran. One that fails is named and left out."""
    tried = {}
    for setting in settings:
        try:
            tried[setting] = run(setting)[figure]
            say(f"  {what} {setting}: {figure.replace('_', ' ')} {tried[setting]:.2f}")
        except Failed as problem:
            say(f"  {what} {setting}: {problem}")
    if not tried:
        raise Failed(f"{what} ran at no setting")
    best = max if better == "more" else min
    return best(tried, key=tried.get), list(tried)


def one(name, against, target, figure, better, ours, theirs, agree=lambda a, b: None):
    """A row of one figure, as the list of it."""

    def rows(a):
        return alternate(a, name, against, target, ours, theirs, [(figure, better, None, None)], agree)

    return name, against, rows


def kept(result):
    """Numbers and words of a measurement; no lists, no text it printed."""
    return {k: v for k, v in result.items() if isinstance(v, (int, float, str)) and k not in ("printed", "model")}


def same_loss(tolerance):
    def agree(a, b):
        apart = abs(a["loss_first"] - b["loss_first"]) / b["loss_first"]
        return None if apart <= tolerance else f"first losses {a['loss_first']} and {b['loss_first']}"

    return agree
