"""From a cold process to the first token."""

from .pairs import one
from .setup import HONE, MODEL, PEERS, PYTHON, timed


def jobs(a):
    prompt = ["--prompt", "The capital of France is"]
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(a.threads)}
    ours = [HONE, "generate", MODEL, "--dtype", "bf16", "--max-new-tokens", 1, "--quiet", "--threads", a.threads, *prompt]
    theirs = [PYTHON, PEERS / "first_token.py", "--model", MODEL, *prompt]

    def agree(x, y):
        # Hone repeats the prompt or not, by its own taste; the token is what ends the text.
        first, second = x["printed"].strip(), y["printed"].strip()
        return None if second and first.endswith(second) else f"tokens {first!r} and {second!r}"

    def run_theirs():
        result = timed(theirs, offline)
        token, version = result["printed"].strip().rsplit("\n", 1)
        return {**result, "printed": token, "version": version}

    yield one(
        "cold process to the first token, bf16", "python + transformers", "≥ 10×", "seconds", "less",
        lambda: timed(ours, offline), run_theirs, agree,
    )
