"""Where things lie, and what must be there before anything is measured."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "bench"
PEERS = ROOT / "bench" / "peers"
PAGE = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "performance"
BUILT = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "hone"
HONE = pathlib.Path(os.environ.get("HONE_BINARY", BUILT)).absolute()
PYTHON = pathlib.Path(os.environ.get("HONE_PEERS_PYTHON", WORK / "venv" / "bin" / "python"))
MODEL = pathlib.Path(os.environ.get("HONE_BENCH_MODEL", WORK / "model"))
MODEL_NAME = "smollm2-135m-instruct"
PACKAGES = ["torch", "transformers", "peft", "trl", "lm-eval", "datasets", "accelerate", "numpy", "matplotlib"]


class Failed(Exception):
    """A program that ended badly, or two that did not do the same."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def prepare():
    WORK.mkdir(parents=True, exist_ok=True)
    PLOTS.mkdir(parents=True, exist_ok=True)
    if not PYTHON.exists():
        say("making a Python environment for the peers in target/bench/venv")
        subprocess.run([sys.executable, "-m", "venv", WORK / "venv"], check=True)
        subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        # llama.cpp is compiled here, for this processor: its own best.
        flags = f"-include {PEERS / 'tile_config.h'} " + os.environ.get("CXXFLAGS", "")
        build = [PYTHON, "-m", "pip", "install", "--quiet", "--no-cache-dir", "llama-cpp-python"]
        subprocess.run(build, check=True, env={**os.environ, "CXXFLAGS": flags})
    if "HONE_BINARY" not in os.environ:
        subprocess.run(["cargo", "build", "--release", "--package", "hone", "--quiet"], cwd=ROOT, check=True)
    if not MODEL.exists():
        hone("pull", MODEL_NAME, "--quiet")
        part = MODEL.with_name(MODEL.name + ".part")
        hone("export", MODEL_NAME, "--format", "hf", "--store", "bf16", "--out", part, "--quiet")
        os.rename(part, MODEL)


def call(name, command, env=None):
    """What a program printed. Says the end of its errors where it failed."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env={**os.environ, **(env or {})})
    if done.returncode != 0:
        why = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise Failed(f"{name}: {why}: {done.stderr.strip()[-1500:]}")
    return done.stdout


def hone(*arguments):
    return call(f"hone {' '.join(map(str, arguments))}", [HONE, *arguments])


def hone_json(*arguments):
    return json.loads(hone(*arguments, "--json"))


def peer(script, *arguments):
    printed = call(f"{script} {' '.join(map(str, arguments))}", [PYTHON, PEERS / script, *arguments])
    return json.loads(printed.strip().splitlines()[-1])


def timed(command, env=None):
    """Wall seconds, processor seconds and largest memory of a program from its start to its end, and what it printed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        begin = time.perf_counter()
        child = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err, env={**os.environ, **(env or {})})
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if child.returncode != 0:
            raise Failed(f"{' '.join(map(str, command))}: exit code {child.returncode}: {err.read().strip()[-1500:]}")
        unit = 1024 * 1024 if sys.platform == "darwin" else 1024
        return {
            "seconds": seconds,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_rss_mib": usage.ru_maxrss / unit,
            "printed": out.read(),
        }


def data_file(a, name):
    if a.data_root is None:
        raise Failed(f"`{name}` is needed: say where the data lie with --data-root or HONE_DATA")
    path = pathlib.Path(a.data_root) / name
    if not path.exists():
        raise Failed(f"{path} is not there: --data-root must be the folder that holds `{name}`")
    return path


def gguf():
    """The model as its publishers quantised it, from the cache."""
    hone("pull", MODEL_NAME, "--quiet")
    directory = pathlib.Path(hone_json("doctor")["cache"]["directory"])
    found = sorted(p for p in directory.rglob("*.gguf") if p.name.lower().startswith("smollm2-135m"))
    if not found:
        raise Failed(f"no GGUF file of {MODEL_NAME} below {directory}")
    return found[0]
