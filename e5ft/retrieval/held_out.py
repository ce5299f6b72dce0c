"""What of evaluation sets mining must leave alone, and an evaluation folder as rows to mine for."""

import itertools
import os
from collections.abc import Iterable
from pathlib import Path

from e5ft.data.remote import Fetched
from e5ft.data.rows import Row
from e5ft.data.store import RowStore
from e5ft.data.text import text_id
from e5ft.retrieval import beir
from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.layouts import find_files, splits_of
from e5ft.retrieval.sets import load_beir

AUTO, JUDGED, CORPUS = "auto", "judged", "corpus"
Split = tuple[Path | Fetched, str]  # a folder, and which of its judgements


def rows_of_set(folder: str | os.PathLike, split: str) -> tuple[list[Row], StringColumn, list[Row]]:
    """A row for each query with a relevant passage, the whole corpus, and rows of the queries that are passages themselves."""
    judged = load_beir(folder, split)
    names = itertools.chain(judged.left_out.values(), *judged.qrels.values())
    position_of, rows, themselves = judged.passage_ids.positions_of(names), [], []
    for query_id, query in zip(judged.query_ids, judged.queries, strict=True):
        own = judged.left_out.get(query_id)
        relevant = [name for name, value in judged.qrels[query_id].items() if value > 0 and name in position_of and name != own]
        if relevant:
            rows.append(Row(query, tuple(judged.passages[position_of[passage]] for passage in relevant)))
        if own is not None:
            themselves.append(Row(query, (judged.passages[position_of[own]],)))
    return rows, judged.passages, themselves


def document_ids(rows: Iterable[Row]) -> set[int]:
    """The identities of the rows' documents."""
    if isinstance(rows, RowStore):
        return set(rows.positive_ids()[0].tolist())
    return {text_id(text) for row in rows for text in row.positives}


def held_out_passages(
    held: Split, which: str, rows: Iterable[Row], corpus: Iterable[str] | None, mined: Split | None = None
) -> tuple[str, set[int]]:
    """Which of an evaluation folder's passages are held out, and their identities.

    Args:
        held: the folder, and the split that will be measured.
        which: "corpus", all; "judged", those judged in any split but the mined one; "auto", these where the folder's corpus
            holds more than half of the candidates: training and evaluation share a corpus then, and without it there is
            nothing to mine.
        rows: to mine for.
        corpus: the candidates' texts; None: the rows' documents.
        mined: the folder and split that the rows are from; None: they are from elsewhere.
    """
    folder, split = held
    ids, texts = beir.read_passages(find_files(folder, split).corpus)
    identities = {text_id(text) for text in texts}
    if which == AUTO:
        candidates = document_ids(rows) if corpus is None else {text_id(text) for text in corpus}
        which = JUDGED if 2 * len(candidates & identities) > len(candidates) else CORPUS
    if which == CORPUS:
        return which, identities
    same = mined is not None and _location(mined[0]) == _location(folder)
    splits = [split for split in splits_of(folder) if not (same and split == mined[1])]
    judged = (passage for split in splits for _, _, passage, _ in beir.read_qrels(find_files(folder, split).qrels))
    return which, {text_id(texts[position]) for position in ids.positions_of(judged).values()}


def _location(folder: Path | Fetched) -> str | Path:
    return folder.url.rstrip("/") if isinstance(folder, Fetched) else folder.resolve()
