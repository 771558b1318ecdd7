"""How often the intervals cover the truth: ``python -m tests.stats.simulate_coverage [repetitions]``.

Prints the Markdown table of the design page. Samples are drawn from a known truth, with subjects by
a Dirichlet law per subject whose intraclass correlation is ``rho``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as laws

from harness.stats import paired, paired_ratio, score
from harness.stats.intervals import normal_quantile, tango_bounds, wilson_bounds
from harness.stats.paired import design_effect, left_out_variance, quantile, sign_flip_p

SUBJECTS = 57
Z = normal_quantile(0.95)


@dataclass(frozen=True)
class Drawn:
    """Wins and losses per subject, ``[repetitions, subjects]``, and questions per subject."""

    wins: np.ndarray
    losses: np.ndarray
    sizes: np.ndarray


def shares(p: float, gap: float = 0.0, correlation: float = 0.5) -> tuple[float, float]:
    """Shares of wins and losses of two channels with accuracies ``p + gap`` and ``p``."""
    first, second = min(max(p + gap, 0.001), 0.999), p
    both = first * second + correlation * np.sqrt(first * (1 - first) * second * (1 - second))
    both = min(both, first, second)
    return first - both, second - both


def subject_sizes(n: int, subjects: int, uneven: bool) -> np.ndarray:
    if not uneven:
        return np.array([n // subjects + (i < n % subjects) for i in range(subjects)], dtype=float)
    drawn = np.random.default_rng(5)
    weights = np.exp(drawn.normal(0, 0.6, subjects))
    return drawn.multinomial(n - subjects, weights / weights.sum()) + 1.0


def draw(cells: tuple[float, float], sizes: np.ndarray, rho: float, repetitions: int, seed: int = 0) -> Drawn:
    """Draws wins and losses; ``rho = 0`` makes the subjects alike."""
    rng = np.random.default_rng(seed)
    truth = np.array([*cells, 1 - sum(cells)]).clip(1e-12)
    rates = np.broadcast_to(truth, (repetitions, len(sizes), 3))
    if rho > 0:
        parts = rng.gamma(truth * (1 - rho) / rho, size=rates.shape) + 1e-300
        rates = parts / parts.sum(-1, keepdims=True)
    counts = sizes.astype(int)
    wins = rng.binomial(counts, rates[..., 0])
    rest = np.clip(rates[..., 1] / np.maximum(1 - rates[..., 0], 1e-12), 0, 1)
    return Drawn(wins, rng.binomial(counts - wins, rest), sizes)


def covered(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    return float(np.mean((low <= truth) & (truth <= high)))


def single_coverage(n: int, p: float) -> float:
    """Exact, by summing over all possible counts."""
    right = np.arange(n + 1)
    low, high = wilson_bounds(right, n, Z)
    return float(laws.binom.pmf(right, n, p)[(low <= p) & (p <= high)].sum())


def paired_coverage(n: int, p: float, gap: float, repetitions: int, correlation: float = 0.5) -> float:
    wins, losses = shares(p, gap, correlation)
    counts = np.random.default_rng(0).multinomial(n, [wins, losses, 1 - wins - losses], size=repetitions)
    return covered(*tango_bounds(counts[:, 0], counts[:, 1], n, Z), wins - losses)


def clustered_bounds(drawn: Drawn, single: bool) -> tuple[np.ndarray, np.ndarray]:
    """The bounds that ``score`` and ``paired`` give, for all repetitions at once."""
    sums = drawn.wins - drawn.losses
    wins, losses, n = drawn.wins.sum(-1), drawn.losses.sum(-1), drawn.sizes.sum()
    effect = design_effect(sums, drawn.sizes, wins + losses)
    t = quantile(0.95, len(drawn.sizes))
    if single:
        return wilson_bounds(wins / effect, n / effect, t)
    return tango_bounds(wins / effect, losses / effect, n / effect, t)


def clustered_coverage(cells: tuple[float, float], sizes: np.ndarray, rho: float, repetitions: int) -> float:
    """Coverage for one channel (no losses) or a pair."""
    drawn = draw(cells, sizes, rho, repetitions)
    return covered(*clustered_bounds(drawn, cells[1] == 0), cells[0] - cells[1])


def student_coverage(cells: tuple[float, float], sizes: np.ndarray, rho: float, repetitions: int) -> float:
    """The textbook alternative: Student's interval on the plain scale."""
    drawn = draw(cells, sizes, rho, repetitions)
    sums = drawn.wins - drawn.losses
    mean = sums.sum(-1) / sizes.sum()
    half = quantile(0.95, len(sizes)) * np.sqrt(left_out_variance(sums, sizes))
    return covered(mean - half, mean + half, cells[0] - cells[1])


def sign_flip_rejections(p: float, sizes: np.ndarray, rho: float, repetitions: int) -> float:
    """How often the test over subjects is below 0.05 although nothing differs."""
    drawn = draw(shares(p), sizes, rho, repetitions)
    sums = (drawn.wins - drawn.losses).astype(float)
    return float(np.mean([sign_flip_p(row) < 0.05 for row in sums]))


def expand(drawn: Drawn, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One repetition as vectors per question: first channel, second channel, subject."""
    first, second, subject = [], [], []
    for code, (wins, losses, size) in enumerate(zip(drawn.wins[row], drawn.losses[row], drawn.sizes, strict=True)):
        same = int(size) - wins - losses
        first += [1] * wins + [0] * (losses + same)
        second += [0] * wins + [1] * losses + [0] * same
        subject += [code] * int(size)
    return np.array(first), np.array(second), np.array(subject)


def bootstrap_coverage(cells: tuple[float, float], sizes: np.ndarray, rho: float, repetitions: int) -> float:
    """Coverage of the percentile bootstrap that stands beside the interval."""
    drawn = draw(cells, sizes, rho, repetitions)
    hits = 0
    for row in range(repetitions):
        first, second, subject = expand(drawn, row)
        clusters = subject if len(sizes) > 1 else None
        whole = (
            score(first, clusters, row, resamples=1000)
            if cells[1] == 0
            else paired(first, second, clusters, row, resamples=1000)
        )
        hits += whole.bootstrap.covers(cells[0] - cells[1])
    return hits / repetitions


def strata_coverage(accuracies: Sequence[float], subjects: int, rho: float, repetitions: int, known: bool) -> float:
    """Coverage of the accuracy over parts of 400 questions each, with their strata known or not."""
    sizes = subject_sizes(400, subjects, True)
    drawn = [draw((p, 0.0), sizes, rho, repetitions, seed).wins for seed, p in enumerate(accuracies)]
    sums, both = np.concatenate(drawn, -1).astype(float), np.tile(sizes, len(accuracies))
    strata = np.repeat(np.arange(len(accuracies)), subjects) if known else None
    right, n = sums.sum(-1), both.sum()
    effect = design_effect(sums, both, right, strata)
    t = quantile(0.95, len(both), len(accuracies) if known else 1)
    return covered(*wilson_bounds(right / effect, n / effect, t), float(np.mean(accuracies)))


def speed_up_coverage(questions: int, rounds: int, repetitions: int, by_question: bool = True) -> float:
    """Coverage of a ratio of medians of 3 where questions differ more than rounds of one question."""
    rng, hits = np.random.default_rng(0), 0
    names = np.tile(np.arange(questions), rounds)
    for _ in range(repetitions):
        difficulty = rng.normal(0, 0.4, (2, questions))
        seconds = np.exp(difficulty[:, names] + rng.normal(0, 0.05, (2, len(names))))
        pairs = (3 * seconds[0], seconds[1])
        found = paired_ratio(*pairs, resamples=400, questions=names if by_question else None).ratio_of_medians.interval
        hits += found is not None and found.covers(3.0)
    return hits / repetitions


def print_other(repetitions: int) -> None:
    """Prints coverage of accuracies over strata, and of speed-ups by rounds."""
    print("| accuracies of two halves | strata known | strata ignored |\n|---|---|---|")
    for halves in ((0.9, 0.3), (0.99, 0.27), (0.6, 0.5)):
        cells = [strata_coverage(halves, 96, 0.15, repetitions, known) for known in (True, False)]
        print(f"| {halves[0]}, {halves[1]} | " + " | ".join(f"{100 * cell:.1f}" for cell in cells) + " |", flush=True)
    print("| questions | rounds | by question | by timing |\n|---|---|---|---|")
    for questions, rounds in ((20, 1), (20, 3), (20, 10), (50, 10)):
        few = max(repetitions // 20, 100)
        cells = [speed_up_coverage(questions, rounds, few, by_question) for by_question in (True, False)]
        print(f"| {questions} | {rounds} | " + " | ".join(f"{100 * cell:.1f}" for cell in cells) + " |", flush=True)


def _row(n: int, p: float, repetitions: int) -> str:
    subjects = SUBJECTS if n > SUBJECTS else 12
    one, pair = (p, 0.0), shares(p)
    even, uneven = subject_sizes(n, subjects, False), subject_sizes(n, subjects, True)
    few = max(repetitions // 20, 100)
    cells: Sequence[float] = [
        single_coverage(n, p),
        paired_coverage(n, p, 0.0, repetitions),
        paired_coverage(n, p, 0.04, repetitions),
        *(clustered_coverage(one, even, rho, repetitions) for rho in (0, 0.05, 0.15)),
        clustered_coverage(one, uneven, 0.05, repetitions),
        *(clustered_coverage(pair, even, rho, repetitions) for rho in (0, 0.05)),
        clustered_coverage(pair, uneven, 0.05, repetitions),
        student_coverage(one, uneven, 0.05, repetitions),
        bootstrap_coverage(one, np.array([float(n)]), 0, few),
        bootstrap_coverage(one, uneven, 0.05, few),
        bootstrap_coverage(pair, uneven, 0.05, few),
        sign_flip_rejections(p, uneven, 0.05, few),
    ]
    return f"| {n} | {p} | " + " | ".join(f"{100 * cell:.1f}" for cell in cells) + " |"


def main(repetitions: int) -> None:
    """Prints one row per sample size and accuracy, coverage in percent."""
    print(
        "| n | accuracy | single | paired, no gap | paired, gap 4 | single s0 | single s.05 | single s.15 "
        "| single u.05 | paired s0 | paired s.05 | paired u.05 | Student single u.05 | bootstrap single "
        "| bootstrap single u.05 | bootstrap paired u.05 | sign-flip rejections u.05 |"
    )
    print("|---" * 17 + "|")
    for n in (50, 200, 1000):
        for p in (0.05, 0.5, 0.95):
            print(_row(n, p, repetitions), flush=True)
    print()
    print_other(repetitions)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
