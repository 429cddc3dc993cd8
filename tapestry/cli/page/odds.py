"""What a privacy loss means for one record, as numbers that need no mathematics.

Whoever looks at everything that was published, and already knows all other records,
has some odds that one record was used. Under (epsilon, delta) differential privacy
these odds move by a factor of at most e to the power of epsilon, but for delta.
"""

import math

_LARGEST = 700.0  # beyond, e to this power is no longer a float


def factor(epsilon: float) -> float:
    """The factor by which the odds of one record can move: e to the epsilon."""
    return math.exp(min(epsilon, _LARGEST))


def right_guess(epsilon: float, *, delta: float) -> float:
    """The largest probability of a right guess whether one record was used.

    A fair coin decides whether it was; a guesser who knows everything else is right
    with probability at most (e^epsilon + delta) / (e^epsilon + 1), which is the bound
    on the total variation distance of an (epsilon, delta) mechanism, halved, above a
    half. Without any information it is a half.

    Guarantees:
        The bound is reached by some mechanism, so no smaller number holds for all.
    """
    odds = factor(epsilon)
    return min((odds + delta) / (odds + 1.0), 1.0)


def after(prior: float, epsilon: float) -> float:
    """The largest probability afterwards, from the one before, apart from delta."""
    odds = prior / (1.0 - prior) * factor(epsilon)
    return odds / (1.0 + odds)


def verdict(guess: float) -> str:
    """One word for a bound, from the largest probability of a right guess."""
    if guess >= 0.95:
        return "weak"
    return "moderate" if guess >= 0.75 else "strong"
