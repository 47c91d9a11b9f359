"""`rayse inspect NAME --card`: the data card of a corpus in a terminal; report.html has it with drawings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.console import console, print_json, table
from pipelines.errors import UserError, printable
from pipelines.report import data_card
from pipelines.store.artifacts import Artifact

DISPLAYED_CHARACTERS = 80  # of a near duplicate
BAR = 30  # characters of a bar for all documents of a language


def show_card(artifact: Artifact, name: str, *, where: Sequence[str], limit: int, as_json: bool) -> None:
    """Prints the data card of a corpus, with at most `limit` samples and clusters of near duplicates.

    Raises UserError for an artifact without one, and for conditions, which choose rows."""
    if where:
        raise UserError(f"--where {where[0]}: chooses rows, but --card prints no rows; leave one of them out")
    if artifact.kind != "corpus":
        raise UserError(
            f"{name}: --card shows the data card of a corpus, and this is of the kind {artifact.kind}; leave --card out"
        )
    card = data_card.read(artifact)
    if card is None:
        raise UserError(
            f"{name}: was made before corpora had data cards; it gets one when it is made again, with all that was "
            f"made of it: rayse run RECIPE --force {artifact.manifest.name}"
        )
    if as_json:
        return print_json({"artifact": artifact.fingerprint, **card})
    _print_sources(card)
    _print_groups(card.get("groups", {}))
    for name, histogram in card["histograms"].items():
        _print_histogram(name, histogram)
    reasons = [reason for reason, _ in data_card.totals(card).most_common() if reason in card["dropped"]]
    samples = [(reason, card["dropped"][reason][0]) for reason in reasons]
    for reason, sample in samples[:limit]:
        print(printable(f"\n{reason}  {sample['place']}  {sample['problem']}\n    {sample['text']}"))
    for cluster in card["near_duplicates"][: max(limit - len(samples), 0)]:
        kept, *others = (f"{member['id']}  {member['text'][:DISPLAYED_CHARACTERS]}" for member in cluster["members"])
        print(printable(f"\n{cluster['documents']:,} near duplicates, kept {kept}"))
        print(printable("".join(f"    dropped {other}\n" for other in others)), end="")
    return None


def _print_sources(card: Mapping[str, Any]) -> None:
    """A row for each source: what was read, what is kept, and what was dropped by reason."""
    rows = table("source", "read", "training", "held out", "not used")
    for column in rows.columns[1:4]:
        column.justify = "right"
    for source, counts in card["documents"].items():
        dropped = sorted(counts["dropped"].items(), key=lambda item: -item[1])
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in dropped)
        numbers = (f"{counts[what]:,}" for what in ("read", "train", "held_out"))
        rows.add_row(printable(source), *numbers, printable(reasons))
    console().print(rows)


def _print_groups(groups: Mapping[str, Any]) -> None:
    """A row for each group of people that documents mention: how many were read, which share the filters kept."""
    if not groups:
        return
    rows = table("documents that mention", "read", "kept", "")
    for column in rows.columns[1:3]:
        column.justify = "right"
    for name, of in groups.items():
        share = f"{of['kept'] / max(of['read'], 1):.1%}"
        rows.add_row(name.replace("_", " "), f"{of['read']:,}", share, printable(of.get("warning", "")))
    console().print(rows)


def _print_histogram(name: str, histogram: Mapping[str, Any]) -> None:
    """A row for each bin with 0.5% of a language's documents and more, with a bar of each language's share."""
    bins, shares = data_card.shares_of_bins(histogram)
    rows = table(f"{name} (≥ 0.5%)", *shares)
    rows.columns[0].justify = "right"
    for number, bin_ in enumerate(bins.tolist()):
        low, high = map(data_card.edge_label, histogram["edges"][bin_ : bin_ + 2])
        bars = (f"{'█' * round(BAR * share[number])} {share[number]:.0%}" for share in shares.values())
        if max(share[number] for share in shares.values()) >= 0.005:
            rows.add_row(f"{low} – {high}", *bars)
    console().print(rows)
