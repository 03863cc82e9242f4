"""The findings of a characterization: its figures in words."""

from ctd_agent.measure.characterize.record import Characterization, Errors, Variant

METRIC = "RP@5"  # of the ranking: what the words go by
NEAR, REAL, ADDED = "gold among near-misses", "the real shortlist", "gold added"
FEW = 50  # documents, below which an interval is as wide as most effects
REMEDIES = {
    "never retrieved": "search finds too little: better names, aliases and descriptions in the catalogue, another "
    "embedder, or a shortlister that searches more",
    "retrieved and cut": "the right labels are found and cut: a longer shortlist (--candidates)",
    "shortlisted and not chosen": "the right labels are on the shortlist and not chosen: a stronger selector, "
    "or a task that says better what applies (--task)",
}


def findings(study: Characterization) -> list[str]:
    """Return the findings, a sentence or two each. Where an interval holds zero they say that nothing is shown."""
    return [
        _complementary(study),
        _bottleneck(study.errors),
        _wrong(study.errors),
        *_ablated(study.ablations),
        *_given(study.selection_given),
        *_followed(study),
        *([f"{study.documents} documents are few: read the intervals."] if study.documents < FEW else []),
    ]


def _complementary(study: Characterization) -> str:
    shares, gain = study.swap.shares, study.swap.gain
    helps = {phase: share.low > 0 for phase, share in shares.items()}
    parts = f"shortlisting adds {shares['shortlist']:+.3f}, selecting {shares['select']:+.3f}"
    total = f"Over hybrid retrieval in its own order the graph gains {gain:+.3f} {METRIC}: {parts}."
    if all(helps.values()):
        return f"{total} Both phases add something: they are complementary here."
    if helps["select"]:
        return f"{total} Only selecting surely helps here: what the model searches for adds nothing that shows."
    if helps["shortlist"]:
        return f"{total} Only shortlisting surely helps here: the selector orders no better than retrieval."
    return f"{total} On {study.documents} documents neither phase's part is surely above zero."


def _bottleneck(errors: list[Errors]) -> str:
    lost = [error for error in errors if error.name != "wrongly chosen"]
    worst = max(lost, key=lambda error: error.count)
    if not worst.count:
        return "No right label was lost."
    parts = ", ".join(f"{error.share:.0%} {error.name}" for error in lost)
    phase = "selecting" if worst.name == "shortlisted and not chosen" else "shortlisting"
    return f"Of all right labels: {parts}. The bottleneck is {phase}; {REMEDIES[worst.name]}."


def _wrong(errors: list[Errors]) -> str:
    (wrong,) = (error for error in errors if error.name == "wrongly chosen")
    return f"Of the labels chosen, {wrong.share:.0%} are wrong."


def _ablated(variants: list[Variant]) -> list[str]:
    said = []
    for variant in variants[1:]:
        change = variant.differences[METRIC]
        verdict = "hurts" if change.high < 0 else "helps" if change.low > 0 else "makes no difference that shows"
        said.append(f"{variant.name.capitalize()}: {verdict} ({METRIC} {change:+.3f}).")
    if not any(variant.name == "no reasoning" for variant in variants):
        said.append("No reasoning: nothing to take away, the selector gives no reasons.")
    return said


def _given(variants: list[Variant]) -> list[str]:
    by_name = {variant.name: variant for variant in variants}
    real, added, near = (by_name[name].metrics["P@1"].mean for name in (REAL, ADDED, NEAR))
    limit = "shortlisting limits selection" if by_name[ADDED].differences["P@1"].low > 0 else "that shows no limit"
    return [
        f"With the missing right labels put on the shortlist P@1 goes from {real:.2f} to {added:.2f}: {limit}. "
        f"With right labels among near-misses only it is {near:.2f}."
    ]


def _followed(study: Characterization) -> list[str]:
    first, shortlist, last = study.steps[0], study.steps[-2], study.steps[-1]
    said = [
        f"Focus goes from {first.focus.mean:.2f} after the document's search to {shortlist.focus.mean:.2f} on the "
        f"shortlist and {last.focus.mean:.2f} after the selection."
    ]
    if first.confusion and shortlist.confusion and last.confusion:
        early = first.confusion.mean - shortlist.confusion.mean
        late = shortlist.confusion.mean - last.confusion.mean
        agrees = (
            "it falls late, as in the paper" if late > max(early, 0) else "unlike in the paper it does not fall late"
        )
        said.append(
            f"A near-miss outranks its right label in {first.confusion.mean:.0%} of pairs at first, "
            f"{shortlist.confusion.mean:.0%} on the shortlist, {last.confusion.mean:.0%} after the selection: {agrees}."
        )
    return said
