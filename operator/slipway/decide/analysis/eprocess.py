"""The statistics of a rollout: what counts prove.

Invariant: for a canary that is no worse, the mean of all evidence here is at most 1, at every look.

**Failing: an e-process on where the bad answers fell.** If the canary is no worse, each bad answer (an error, a
refusal, an answer slower than a bound) came from it with a probability of its share p of the answers in that interval.
If it answers badly r times as often, that probability is pr/(1-p+pr). n bad answers, c of them the canary's, multiply
the evidence for r by

    r**c / (1-p+pr)**n

whose mean is at most 1 for a canary that is no worse: exactly 1 with answers drawn one by one, less with the counts of
an interval, since a hypergeometric count spreads less than a binomial one (Hoeffding 1963, theorem 4). p is the actual
share in the interval, so weights may change; only bad answers count, so rates may drift. A mean of such evidence, over
a grid of r, over kinds, over the times at which it may have begun, is such evidence again, and by Ville's inequality
it ever reaches 1/alpha with a probability of at most alpha. A kind's weight in that mean is its part of alpha.
Example 1: 5 % of the answers are the canary's (p = 0.05), and 4 errors, all its own, arrive. For r = 16 one error
multiplies by 16/1.75 = 9.14; four by 6,988. Example 2: one of four is the canary's: 9.14 * 0.571**3 = 1.71.

**When it began.** A canary that was well for an hour and then breaks must not be excused by that hour. So half of the
stake is bet at once and the rest bit by bit: (1/2) T/(T+t) is not yet bet after t seconds of traffic, and what is bet
anew starts at 1. Example 1: T = 300 s, t = 0: half is bet. Example 2: t = 300: a quarter is left to bet.

**Bursts.** A pod that fails everything for three seconds gives many errors and one piece of information. Evidence is
therefore drawn from a purse, which holds little more than one error is worth and fills up within two seconds. Bad
answers take n*ln(16/(1-p+16p)) out of it; where it holds less, c and n are scaled down alike. While a pod of the canary
seems to be out (at least half of what one pod gets is answered badly, and more than stable's usual share), nothing
comes into the purse, until it is out for longer than pods are that are well; then much does, quickly. How long that is,
stable's own pods say: BURST_SECONDS, or half as long again as the longest time for which one of them was out
in this rollout. The scale depends on n and the past, never on where this look's bad answers fell, and a power below one
of something with a mean of at most 1 has such a mean too (Jensen), so nothing is lost of what was said above. What is
gained: a canary that fails everything is told from a pod's burst by its length alone, and what stable's pods do too is
held against nobody. That is a choice, and it has a price on both sides: total failure takes about 8 s from its first
error to `Fail`, 10 s once in a hundred times (at alpha 1 %), and up to MOST_BURST_SECONDS more where stable's pods are
out for long; and a canary whose only pod fails everything for as long, before any of stable's did, is taken back
although it may be healthy. For answers that fail independently of each other alpha is proven; for bursts it is measured
(docs/analysis.md, with its limits).
Example 1: p = 0.05, ten errors of the canary in a second, the purse full: 2.5 of the 22.1 that they ask for, so e is
multiplied by exp(2.5) = 12.2 for r = 16, not by 9.14**10. Example 2: one error, the purse full: it counts as one.
Example 3: one of stable's four pods was out for 8 s: what a pod of the canary fails counts as one burst for 13 s.

**Passing: the upper bound of a difference.** Newcombe's hybrid score interval (1998, method 10), made of Wilson's for
each rate, one-sided 95 %: right at rates near 0, where the normal one has no width. Example 1: canary 0/268, stable
0/5,000: at most 1.00 % more. Example 2: canary 3/1,000, stable 20/10,000: at most 0.55 % more.
It is looked at until it is met, so the 5 % are those of one look; a bound that is valid at all looks asks for about
twice the requests of a healthy canary. The bench measures what this one lets through: of canaries that are worse by
exactly the margin about a fifth in each step, by twice the margin one in a hundred; those go on being judged.

**Limits.** A rate against a number L: the evidence that it is above is the mean, over a grid of rates q above L, of
(q/L)**x * ((1-q)/(1-L))**(n-x) for x of n answers; `Fail` at 1/alpha, in each step. It is an e-process by the same
argument, so it may be looked at often. Example 1: L = 1 %, 5 of 40: e = 970. Example 2: 1 of 40: e = 0.51.

Sources: Lindon & Malek 2022 (arXiv 2011.03567), Lindon, Sanden & Shirikian 2022 (2205.14762), Turner, Ly & Grünwald
2021 (2106.02693), Howard & Ramdas 2022 (1906.09712), Newcombe 1998 (Statistics in Medicine 17, 873-890), Wilson 1927.
Pure: `math` alone. Must not import: numpy, scipy (they are the tests' oracles).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

RELATIVE_RISKS = (1.25, 2.0, 3.0, 5.0, 9.0, 16.0)
"""How many times as likely a bad answer may be; each gets an equal part of the stake."""
PURSE = 2.5
"""Most that ln e rises by at once."""
REFILL_PER_SECOND = 1.5
"""What comes into the purse while no pod of the canary seems to be out."""
BURST_SECONDS, MOST_BURST_SECONDS = 7.0, 30.0
"""For so long at least, and at most, a pod may be out that is well."""
LONGER_THAN_STABLE, BESIDES_SECONDS = 1.5, 1.0
"""How many times as long as stable's pods were out, and a look's inaccuracy."""
GAIN_AFTER_BURST = 4.0
"""What comes into the purse in each second after that; in that time, nothing does."""
ENOUGH_WELL = 3
"""Answers since the last bad look after which nothing is out any more."""
START_SECONDS = 300.0
"""Half of what is left of the stake is bet within this time."""
SURE = 1.6448536269514722
"""One-sided 95 %."""

_LN_MOST = 700.0


@dataclass(frozen=True, slots=True)
class Outage:
    """For how long a pod of a revision seems to be out. seconds: 0: none is. well: answers since the last bad look."""

    seconds: float = 0.0
    well: float = 0.0


ALL_WELL = Outage()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks against the canary in one kind of bad answer.

    bets: for each of RELATIVE_RISKS the natural logarithm of what its bet is worth, of a stake of 1. purse: what was
    left in it after the last look. stable_out, canary_out: since when a pod of each is out. longest_seconds: the
    longest that one of stable's was. stable_bad, stable_of: its answers so far, which say what is usual.
    """

    bets: tuple[float, ...] = (math.log(0.5),) * len(RELATIVE_RISKS)
    purse: float = PURSE
    stable_out: Outage = ALL_WELL
    canary_out: Outage = ALL_WELL
    longest_seconds: float = 0.0
    stable_bad: float = 0.0
    stable_of: float = 0.0

    def worth(self, seconds: float) -> float:
        """The e-value after so many seconds of traffic."""
        return unbet(seconds) + sum(math.exp(min(bet, _LN_MOST)) for bet in self.bets) / len(self.bets)

    @property
    def burst_seconds(self) -> float:
        """For how long a pod may be out before that counts for more than a burst."""
        if self.longest_seconds <= 0:
            return BURST_SECONDS
        learned = LONGER_THAN_STABLE * self.longest_seconds + BESIDES_SECONDS
        return min(MOST_BURST_SECONDS, max(BURST_SECONDS, learned))


UNPROVEN = Evidence()
"""Nothing was seen yet."""


def unbet(seconds: float) -> float:
    """The part of the stake that isn't bet after so many seconds of traffic.

    >>> unbet(0), unbet(300)
    (0.5, 0.25)
    """
    return 0.5 * START_SECONDS / (START_SECONDS + seconds)


def weigh(
    evidence: Evidence,
    bad_stable: float,
    bad_canary: float,
    share: float,
    *,
    seconds: float = 0.0,
    traffic_seconds: float = 0.0,
    look_seconds: float = 0.0,
) -> Evidence:
    """The evidence after one more look, before that look is watched.

    bad_stable, bad_canary: bad answers since the last look. share: the canary's actual share of all answers since
    then. seconds: of traffic up to the last look; traffic_seconds: of traffic since; look_seconds: passed since.

    >>> [round(math.exp(bet) / 0.5, 2) for bet in weigh(Evidence(), 0, 1, 0.05).bets]
    [1.23, 1.9, 2.73, 4.17, 6.43, 9.14]
    >>> [round(math.exp(bet) / 0.5, 2) for bet in weigh(Evidence(), 1, 0, 0.05).bets]
    [0.99, 0.95, 0.91, 0.83, 0.71, 0.57]
    """
    fresh = unbet(seconds) - unbet(seconds + traffic_seconds)
    bad = bad_stable + bad_canary
    purse = _refilled(evidence, look_seconds)
    counted = 0.0
    if bad > 0 and 0 < share < 1:
        price = _gain(RELATIVE_RISKS[-1], share)
        counted = min(1.0, purse / (bad * price))
        purse = max(0.0, purse - counted * bad * price)
    bets = tuple(
        max(
            -_LN_MOST,
            _ln_sum(bet, fresh) + counted * (bad_canary * math.log(risk) - bad * math.log(1 - share + share * risk)),
        )
        for bet, risk in zip(evidence.bets, RELATIVE_RISKS, strict=True)
    )
    return replace(evidence, bets=bets, purse=purse)


def _refilled(evidence: Evidence, look_seconds: float) -> float:
    """What is in the purse for this look. A burst may have begun right after the last one, and nobody saw it yet."""
    later = max(0.0, look_seconds - max(0.0, evidence.burst_seconds - evidence.canary_out.seconds))
    if evidence.canary_out.seconds > 0:
        gain = GAIN_AFTER_BURST * later
        return min(max(PURSE, gain), evidence.purse + gain)
    return min(PURSE, evidence.purse + REFILL_PER_SECOND * look_seconds) + REFILL_PER_SECOND * later


def watch(
    evidence: Evidence,
    stable: tuple[float, float],
    canary: tuple[float, float],
    pods: tuple[int, int],
    *,
    look_seconds: float,
) -> Evidence:
    """The evidence, with what this look says of pods that are out: for the looks after it.

    stable, canary: bad answers since the last look, and of how many. pods: of stable and the canary.

    >>> watch(Evidence(), (12, 48), (0, 2), (4, 1), look_seconds=1).stable_out
    Outage(seconds=1.0, well=0.0)
    """
    usual = evidence.stable_bad / evidence.stable_of if evidence.stable_of > 0 else 0.0
    stable_out = _seen(evidence.stable_out, stable, usual, pods[0], look_seconds)
    is_longer = stable_out.well == 0 and stable_out.seconds > evidence.longest_seconds
    return replace(
        evidence,
        stable_out=stable_out,
        canary_out=_seen(evidence.canary_out, canary, usual, pods[1], look_seconds),
        longest_seconds=stable_out.seconds if is_longer else evidence.longest_seconds,
        stable_bad=evidence.stable_bad + stable[0],
        stable_of=evidence.stable_of + stable[1],
    )


def _seen(outage: Outage, answers: tuple[float, float], usual: float, pods: int, look_seconds: float) -> Outage:
    """The outage after a look: one that went on or began, one that may be over, or none."""
    bad, of = answers
    expected = usual * of
    if bad > 0 and bad >= expected + max(of / (2 * pods), 2 * math.sqrt(expected)):
        return Outage(outage.seconds + look_seconds)
    well = outage.well + of
    return Outage(outage.seconds + look_seconds, well) if outage.seconds > 0 and well < ENOUGH_WELL else ALL_WELL


def _gain(risk: float, share: float) -> float:
    return math.log(risk / (1 - share + share * risk))


def _ln_sum(ln_value: float, more: float) -> float:
    """ln(exp(ln_value) + more)"""
    if more <= 0:
        return ln_value
    if ln_value > _LN_MOST:
        return ln_value
    return math.log(math.exp(ln_value) + more)


def wilson(bad: float, of: float, z: float = SURE) -> tuple[float, float]:
    """Lower and upper bound of a rate (Wilson 1927); (0, 1) without data.

    >>> [round(bound, 4) for bound in wilson(0, 268)], [round(bound, 4) for bound in wilson(3, 1000)]
    ([0.0, 0.01], [0.0012, 0.0075])
    """
    if of <= 0:
        return 0.0, 1.0
    rate = min(1.0, bad / of)
    centre = rate + z * z / (2 * of)
    spread = z * math.sqrt(max(0.0, rate * (1 - rate) / of + z * z / (4 * of * of)))
    scale = 1 + z * z / of
    return (0.0 if bad <= 0 else max(0.0, (centre - spread) / scale)), (
        1.0 if bad >= of else min(1.0, (centre + spread) / scale)
    )


def difference(bad: float, of: float, stable_bad: float, stable_of: float) -> tuple[float, float, float]:
    """Lower bound, observed value and upper bound of the canary's rate less stable's (Newcombe 1998, method 10).

    >>> [round(value, 4) for value in difference(3, 1000, 20, 10000)]
    [-0.001, 0.001, 0.0055]
    """
    rate, stable_rate = bad / of, stable_bad / stable_of
    lower, upper = wilson(bad, of)
    stable_lower, stable_upper = wilson(stable_bad, stable_of)
    snapshot = rate - stable_rate
    return (
        snapshot - math.hypot(rate - lower, stable_upper - stable_rate),
        snapshot,
        snapshot + math.hypot(upper - rate, stable_rate - stable_lower),
    )


def above(limit: float, bad: float, of: float) -> float:
    """The e-value against "the rate is at most limit".

    >>> round(above(0.01, 1, 40), 2)
    0.51
    """
    if of <= 0 or limit >= 1:
        return 1.0
    if limit <= 0:
        return math.inf if bad > 0 else 1.0
    grid = [limit + (1 - limit) * part for part in (0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)]
    return sum(
        math.exp(min(_LN_MOST, bad * math.log(rate / limit) + (of - bad) * math.log((1 - rate) / (1 - limit))))
        for rate in grid
    ) / len(grid)
