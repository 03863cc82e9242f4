"""Texts that repeat one another, or nearly: a student learns from one of them."""

import random
from collections.abc import Sequence
from hashlib import blake2b

from ctd_agent.distill.corpus.lessons import Lesson

NEARLY = 0.9  # of the words of two texts: Jaccard similarity from which one repeats the other
PERMUTATIONS = 128  # of MinHash


def without_repetitions(lessons: Sequence[Lesson], seed: int) -> tuple[list[Lesson], int, int]:
    """Return the lessons in an order shuffled by seed, without those whose text repeats another's, or nearly.

    Nearly means a Jaccard similarity of their words of 0.9. MinHash finds the pairs to compare (Broder 1997).
    """
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=NEARLY, num_perm=PERMUTATIONS)  # for the number of bands, and of hashes in each
    near: dict[int, tuple[int, ...]] = {}  # by the hash of a band: the lessons that have it, by place in `fresh`
    seen: set[bytes] = set()
    fresh: list[Lesson] = []
    repeated = nearly = 0
    order = sorted(lessons, key=lambda lesson: lesson.document)
    random.Random(seed).shuffle(order)  # noqa: S311 - an order, no secret
    for lesson in order:
        words = lesson.text.casefold().split()
        digest = blake2b(" ".join(words).encode(errors="replace"), digest_size=16).digest()
        if digest in seen:
            repeated += 1
            continue
        seen.add(digest)
        mine = set(words)
        (sketch,) = MinHash.bulk([[word.encode(errors="replace") for word in mine]], num_perm=PERMUTATIONS)
        bands = [hash((band, sketch.hashvalues[band * lsh.r : (band + 1) * lsh.r].tobytes())) for band in range(lsh.b)]
        alike = {place for band in bands for place in near.get(band, ())}
        if any(_similar(mine, {*fresh[place].text.casefold().split()}) for place in alike):
            nearly += 1
            continue
        for band in bands:
            near[band] = (*near.get(band, ()), len(fresh))
        fresh.append(lesson)
    return fresh, repeated, nearly


def _similar(mine: set[str], other: set[str]) -> bool:
    return len(mine & other) >= NEARLY * len(mine | other)
