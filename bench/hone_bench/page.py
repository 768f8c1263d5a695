"""The results file, and the page drawn from it."""

import json
import os

from .setup import PAGE, PLOTS, WORK

FOLDER = PLOTS
UNITS = {"seconds": "s", "examples_per_second": "examples/s", "largest_smoothed": ""}


def only_try():
    """Rows and pictures go below `target/bench`, and the page is left alone."""
    global FOLDER
    FOLDER = WORK / "trial"
    FOLDER.mkdir(parents=True, exist_ok=True)


def picture(name):
    return FOLDER / name


def read():
    try:
        return json.loads((FOLDER / "results.json").read_text())
    except FileNotFoundError:
        return {}


def keep(section, row):
    """Puts the row in place of the one it repeats; the others stay."""
    with open(WORK / "results.jsonl", "a") as file:
        file.write(json.dumps({"section": section, **row}) + "\n")
    results = read()
    rows = results.setdefault(section, [])
    same = [i for i, r in enumerate(rows) if (r["name"], r["against"]) == (row["name"], row["against"])]
    if same:
        rows[same[0]] = row
    else:
        rows.append(row)
    write(results)


def write(results):
    part = FOLDER / "results.part"
    part.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    os.replace(part, FOLDER / "results.json")
    draw()


def drop(section, name, against):
    """Takes a row that failed out of the table: what it said is no longer known to hold."""
    results = read()
    rows = results.get(section, [])
    left = [r for r in rows if (r["name"], r["against"]) != (name, against)]
    if len(left) != len(rows):
        results[section] = left
        write(results)


def peer_name(row):
    return f"{row['against']} ({row['note']})" if row.get("note") else row["against"]


def amount(row, side):
    value, unit = row[side].get(row["figure"]), UNITS.get(row["figure"], "tokens/s")
    return "–" if value is None else f"{value:.4g} {unit}".strip()


def cpu(row):
    """Processor seconds of both, a step or in all, with which of the two it is."""
    for key, note in (("cpu_seconds_per_step", " a step"), ("cpu_seconds", ""), ("work_cpu_seconds", "")):
        if key in row["ours"] and key in row["theirs"]:
            return f"{row['ours'][key]:.3g} / {row['theirs'][key]:.3g} s{note}"
    return "–"


def memory(row):
    a, b = row["ours"].get("peak_rss_mib"), row["theirs"].get("peak_rss_mib")
    if not (a and b):
        return "–"
    return f"{row['memory']:.2f}× ({a:.0f} / {b:.0f} MiB)"


def show(row):
    if "ratio" not in row:
        return row["said"]
    return (
        f"{row['name']} against {peer_name(row)}: {row['ratio']:.2f}× ({row['least']:.2f} to {row['most']:.2f}), "
        f"{amount(row, 'ours')} against {amount(row, 'theirs')}, memory {memory(row)}; target {row['target']}"
    )


def table(results):
    lines = [
        "| work | against | ratio (median) | least to most | ours | theirs | peak memory (ours / theirs) | CPU (ours / theirs) "
        "| target | measured |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for rows in results.values():
        for r in rows:
            if "ratio" in r:
                lines.append(
                    f"| {r['name']} | {peer_name(r)} | **{r['ratio']:.2f}×** | {r['least']:.2f} to {r['most']:.2f} "
                    f"| {amount(r, 'ours')} | {amount(r, 'theirs')} | {memory(r)} | {cpu(r)} | {r['target']} "
                    f"| {r['date']}, {r['rounds']} round{'s' if r['rounds'] > 1 else ''} |"
                )
    return lines


def places(results):
    """Where and with what: one line, of all rows."""
    rows = [r for rows in results.values() for r in rows]
    machines = sorted({f"{r['processor']}, {r['threads']} threads" for r in rows})
    versions = sorted({v.strip() for r in rows if r.get("versions") for v in r["versions"].split(",")})
    return f"{'; '.join(machines)}. Peers: {', '.join(versions) or '–'}."


def between(text, name, lines):
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in text or end not in text:
        return text
    return text[: text.index(begin)] + "\n".join([begin, *lines, end]) + text[text.index(end) + len(end) :]


def draw():
    if FOLDER != PLOTS:
        return
    results = read()
    text = PAGE.read_text()
    shown = {s: rows for s, rows in results.items() if any("ratio" in r for r in rows)}
    if shown:
        text = between(text, "bench", [places(shown), "", *table(shown)])
    for section, rows in results.items():
        said = [r for r in rows if "said" in r]
        if said:
            lines = []
            for r in said:
                lines += [f"{r['said']} ({r['date']})", ""]
                lines += [f"![{r['name']}](performance/{r['plot']})", ""] if r.get("plot") else []
            text = between(text, section, lines[:-1])
    PAGE.write_text(text)
