"""The meaning of a privacy loss for one record, in probabilities.

Two runs differ in one record: one used it, the other did not. Under (epsilon, delta)
differential privacy, any set of outcomes has in one of them at most e to the power of
epsilon times the probability that it has in the other, plus delta. This is a bound for
sets of outcomes. It does not say that the ratio of probabilities of a single outcome
exceeds that factor with probability delta at most: it may exceed it more often.
"""

import math

_LARGEST = 700.0  # beyond, e to this power is no longer a float


def factor(epsilon: float) -> float:
    """Return the factor of the bound on probabilities, e to the power of epsilon."""
    return math.exp(min(epsilon, _LARGEST))


def right_guess(epsilon: float, *, delta: float) -> float:
    """Return the largest probability of a right guess whether one record was used.

    A fair coin decides whether it was; a guesser who knows everything else is right
    with probability at most (e^epsilon + delta) / (e^epsilon + 1), which is the bound
    on the total variation distance of an (epsilon, delta) mechanism, halved, above a
    half. Without any information it is a half.

    Guarantees:
        The bound is reached by some mechanism, so no smaller number holds for all.
    """
    odds = factor(epsilon)
    return min((odds + delta) / (odds + 1.0), 1.0)


def detected(false_alarms: float, epsilon: float, *, delta: float) -> float:
    """Return the largest share of used records that a test finds.

    A test that wrongly says of a share ``a`` of unused records that they were used
    says so rightly of a share of at most e^epsilon a + delta of the used ones, and of
    at most 1 - (1 - delta - a) / e^epsilon (Kairouz, Oh and Viswanath 2015).

    Guarantees:
        Both bounds are reached by some mechanism, so no smaller number holds for all.
    """
    odds = factor(epsilon)
    rare, rest = odds * false_alarms + delta, (1.0 - delta - false_alarms) / odds
    return min(rare, 1.0 - rest, 1.0)


def verdict(guess: float) -> str:
    """Name a bound in one word, from the largest probability of a right guess."""
    if guess >= 0.95:
        return "weak"
    return "moderate" if guess >= 0.75 else "strong"
