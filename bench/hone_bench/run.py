"""The command line: sections in turn, rows kept as they come."""

import argparse
import os
import time

from . import chat, decode, growth, loss, page, score, start, step
from .setup import Failed, prepare, say

SECTIONS = {"step": step, "score": score, "decode": decode, "chat": chat, "loss": loss, "start": start, "growth": growth}


def main(words):
    arguments = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = arguments.add_argument
    option("sections", nargs="*", help=f"which of {', '.join(SECTIONS)} (default: all)")
    option("--rounds", type=int, default=3, help="times each pair is measured (default 3)")
    option("--threads", type=int, default=os.cpu_count())
    option("--only", metavar="TEXT", help="only rows whose name or peer has this text")
    option("--data-root", default=os.environ.get("HONE_DATA"), help="folder of the tasks' and chats' data (score, chat, loss)")
    option("--no-compile", action="store_true", help="step: leave out the row with torch.compile (minutes)")
    option("--seq", type=int, default=256, help="step: tokens a sequence; rows at another length than 256 say so")
    option("--limit", type=int, default=100, help="score: questions a task (default 100)")
    option("--shots", default="0,5", help="score: examples in the prompt (default 0,5)")
    option("--bf16", action="store_true", help="score: also in bf16, where scores agree only nearly")
    option("--prompt", type=int, default=512, help="decode: tokens of the prompt")
    option("--new", type=int, default=128, help="decode: tokens written")
    option("--examples", type=int, default=1000, help="chat: examples (default 1000)")
    option("--peer-examples", type=int, default=100, help="chat: examples TRL is timed on (0: all)")
    option("--loss-steps", type=int, default=200, help="loss: steps (default 200)")
    option("--quick", action="store_true", help="growth: only the small points, to try the section")
    option("--trial", action="store_true", help="keep rows and pictures in target/bench/trial, and leave the page alone")
    option("--table", action="store_true", help="only draw the page from the results file")
    a = arguments.parse_args()
    for section in a.sections:
        if section not in SECTIONS:
            arguments.error(f"`{section}` is no section; there are {', '.join(SECTIONS)}")
    if a.table:
        page.draw()
        return 0
    prepare()
    if a.trial:
        page.only_try()
    failures = 0
    for section in a.sections or SECTIONS:
        begin = time.perf_counter()
        say(f"{section}:")
        failures += measure(section, a)
        say(f"{section} took {(time.perf_counter() - begin) / 60:.1f} minutes")
    return 1 if failures else 0


def measure(section, a):
    """A section yields (name, against, function of the options that returns rows); each is measured and kept by itself."""
    failures = 0
    jobs = SECTIONS[section].jobs(a)
    while True:
        try:
            name, against, rows = next(jobs)
        except StopIteration:
            return failures
        except Failed as problem:
            # What the section needs before its rows (its data, say) is not there.
            say(f"  FAILED {section}: {problem}")
            return failures + 1
        if a.only and a.only not in name and a.only not in against:
            continue
        begin, kept = time.perf_counter(), False
        try:
            for row in rows(a):
                page.keep(section, row)
                kept = True
                say(f"  {page.show(row)}")
        except (Failed, KeyError, ValueError, OSError) as problem:
            failures += 1
            if not kept:
                page.drop(section, name, against)
            say(f"  FAILED {name} against {against}: {type(problem).__name__}: {problem}")
        say(f"  ({time.perf_counter() - begin:.0f} s)")
