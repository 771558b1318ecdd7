"""How often `repeated` covers the truth: ``python -m tests.stats.simulate_trainings [repetitions]``.

Answers are drawn question by question and training by training: how hard a question is, how good a training is and
what is particular to the two together each shift a normal variable, whose sign is the answer.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy import stats as laws

from harness.stats import repeated

CASES = {"none": (0.0, 0.5), "some": (0.05, 0.5), "much": (0.15, 0.5), "some, no two answers alike": (0.05, 2.0)}


def coverage(
    trainings: int, n: int, training_sd: float, answer_sd: float, repetitions: int, accuracy: float = 0.4
) -> tuple[float, float]:
    """Share of the intervals that cover the accuracy of a new training on new questions, and their mean width.

    Args:
        trainings: how many.
        n: questions.
        training_sd: between trainings, in units of that between questions.
        answer_sd: between answers to one question by several trainings, likewise.
        repetitions: experiments.
        accuracy: that is to be covered.
    """
    drawn = np.random.default_rng(7)
    threshold = laws.norm.ppf(accuracy) * np.sqrt(1 + training_sd**2 + answer_sd**2)
    hits, width = 0, 0.0
    for _ in range(repetitions):
        question = drawn.normal(size=(1, n))
        training = training_sd * drawn.normal(size=(trainings, 1))
        answers = question + training + answer_sd * drawn.normal(size=(trainings, n)) < threshold
        found = repeated(answers, lowest=0.0).interval
        assert found is not None
        hits += found.covers(accuracy)
        width += found.high - found.low
    return hits / repetitions, width / repetitions


def main(repetitions: int) -> None:
    """Prints one row per case, coverage in percent and mean width in points."""
    print("| trainings differ | trainings | n = 200 | n = 1000 |\n|---|---|---|---|")
    for name, (training_sd, answer_sd) in CASES.items():
        for trainings in (3, 5):
            seen = [coverage(trainings, n, training_sd, answer_sd, repetitions) for n in (200, 1000)]
            cells = (f"{100 * share:.1f} ({100 * width:.1f})" for share, width in seen)
            print(f"| {name} | {trainings} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4_000)
