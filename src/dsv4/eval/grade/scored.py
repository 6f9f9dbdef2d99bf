"""Likelihoods: the likeliest of some continuations, or how likely the right one is.

acc: argmax_i log p_i      acc_norm: argmax_i log p_i / bytes_i      bits = −log2 p / bytes
"""

from __future__ import annotations

import math

from dsv4.eval.grade.answer import Answer, Verdict, decided


def likeliest(target: int, answer: Answer) -> Verdict:
    """`target`: the number of the right continuation."""
    return _best(target, [score.logprob for score in answer.scores])


def likeliest_normalised(target: int, answer: Answer) -> Verdict:
    """By byte, so that a long continuation is not less likely for its length."""
    pairs = zip(answer.scores, answer.nbytes, strict=True)
    return _best(target, [score.logprob / max(nbytes, 1) for score, nbytes in pairs])


def greedy(target: int, answer: Answer) -> Verdict:
    """Whether greedy decoding gives the right continuation."""
    score = answer.scores[target]
    return decided(score.greedy, f"log p {score.logprob:.3f} of {score.tokens} tokens")


def bits(target: int, answer: Answer) -> Verdict:
    """Bits a byte of the right continuation: less is better, and nothing is right or wrong."""
    score, nbytes = answer.scores[target], answer.nbytes[target]
    found = -score.logprob / math.log(2) / max(nbytes, 1)
    return Verdict("partial", found, f"{found:.3f} bits a byte of {nbytes}")


def _best(target: int, values: list[float]) -> Verdict:
    best = max(range(len(values)), key=values.__getitem__)  # of equal ones the first, as lm-eval
    return decided(best == target, f"likeliest is {best}, right is {target}")
