"""What is compared takes turns, several times, and what comes of it is a median with its spread."""
import math
import statistics


def median(values):
    return statistics.median(list(values))


def quantile(values, q):
    """The least value that so many do not exceed."""
    values = sorted(values)
    return values[math.ceil(q * len(values)) - 1]


def spread(values):
    values = list(values)
    digits = 2 if max(values) < 10 else 1 if max(values) < 100 else 0
    return f"{min(values):,.{digits}f} to {max(values):,.{digits}f}"


def in_turn(rounds, *runs):
    """Per round what each run gave, which is told the round's number; in every other round they go in the opposite order, so that none is always
    the one after the pause."""
    out = []
    for r in range(rounds):
        got = [None] * len(runs)
        for i in range(len(runs)) if r % 2 == 0 else reversed(range(len(runs))):
            got[i] = runs[i](r)
        out.append(got)
    return out


def middle(results):
    """Of several results of the load generator one whose figures are the medians."""
    return {k: median(r[k] for r in results) for k in results[0]}
