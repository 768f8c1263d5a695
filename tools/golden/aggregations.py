"""Aggregations and their standard errors by lm-evaluation-harness, and scores of single classes as `evaluate` makes them.

Run:  pip install lm_eval scikit-learn
      DISABLE_MULTIPROC=1 python tools/golden/aggregations.py crates/hone-eval/tests/golden/aggregations.json

Every aggregation of the harness' registry is taken of examples of the kind that it is for: numbers (log-likelihoods), pairs of
classes as numbers or texts, log-likelihoods with lengths, answers with references. `stderr` is what `stderr_for_metric` gives,
with `iterations` resamples (100 for translations, as the harness takes). `labels` are `f1_score` and its like of one pair of
classes: `evaluate`'s metrics (`metrics/f1/f1.py` …) call nothing else, and the harness calls them example by example. A score
is null where scikit-learn refuses the pair. Made with lm_eval 0.4.13 and scikit-learn 1.9.
"""

import json
import random
import sys
import warnings

from lm_eval.api import metrics
from lm_eval.api.registry import get_aggregation
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

ITERATIONS = 2000
TRANSLATIONS = 100
rnd = random.Random(20261)
warnings.simplefilter("ignore")


def both(name, items, iterations=ITERATIONS):
    aggregation = get_aggregation(name)
    stderr = metrics.stderr_for_metric(aggregation, iterations)
    return [float(aggregation(items)), float(stderr(items)) if stderr else None]


numbers = [round(-rnd.expovariate(0.4), 3) for _ in range(31)] + [-1.5, -1.5, -0.25]
classes = [(rnd.randint(0, 1), int(rnd.random() < 0.6)) for _ in range(37)]
several = [(rnd.randint(0, 3), rnd.randint(0, 3)) for _ in range(29)]
words = ["yes", "no", "maybe"]
texts = [(gold, gold if rnd.random() < 0.6 else rnd.choice([*words, "[invalid]"])) for gold in rnd.choices(words, k=33)]
lengths = [(round(-rnd.expovariate(0.02), 2), rnd.randint(1, 60)) for _ in range(23)]
some = "the cat sat on a mat while it rained and nobody came home early".split()
translations = []
for _ in range(21):
    reference = rnd.choices(some, k=rnd.randint(3, 12))
    answer = [word if rnd.random() < 0.8 else rnd.choice(some) for word in reference]
    translations.append((" ".join(reference), " ".join(answer)))

labels = []
options = [{}, *({"average": average} for average in ["binary", "micro", "macro", "weighted"]), {"pos_label": 0}]
for gold in range(3):
    for predicted in range(3):
        row = {"gold": gold, "predicted": predicted, "metric": "accuracy", "options": {}}
        labels.append({**row, "score": float(accuracy_score([gold], [predicted]))})
        for name, score in [("f1", f1_score), ("precision", precision_score), ("recall", recall_score)]:
            for option in options:
                try:
                    value = float(score([gold], [predicted], **option))
                except ValueError:
                    value = None
                labels.append({**row, "metric": name, "options": option, "score": value})

golden = {
    "iterations": ITERATIONS,
    "numbers": numbers,
    "of_numbers": {name: both(name, numbers) for name in ["mean", "nanmean", "median", "perplexity", "bypass"]},
    "classes": classes,
    "of_classes": {name: both(name, classes) for name in ["f1", "matthews_corrcoef"]},
    "several": several,
    "of_several": {"matthews_corrcoef": both("matthews_corrcoef", several)},
    "texts": texts,
    "of_texts": {"matthews_corrcoef": both("matthews_corrcoef", texts)},
    "lengths": lengths,
    "of_lengths": {name: both(name, lengths) for name in ["weighted_perplexity", "bits_per_byte"]},
    "translations": translations,
    "of_translations": {name: both(name, translations, TRANSLATIONS) for name in ["bleu", "chrf", "chrf++", "ter"]},
    "labels": labels,
}
with open(sys.argv[1], "w") as out:
    json.dump(golden, out, separators=(",", ":"))
