"""A quick audit before every training run: certain faults in the first rows, in one line."""

from collections import defaultdict

from e5ft.auditing.duplicates import exact_duplicates
from e5ft.auditing.kinds import KINDS
from e5ft.auditing.rows import AuditedRows
from e5ft.auditing.writing import text_faults
from e5ft.data.store import RowStore

ROWS = 5_000  # the first ones, which are looked at


def quick(store: RowStore) -> str:
    """Certain faults in the texts of the first ROWS rows, exact duplicates included, as one line.

    Args:
        store: the rows.
    """
    rows = AuditedRows(store.select(range(min(ROWS, len(store.rows)))))
    faulty = defaultdict(set, {"exact_duplicate": set(exact_duplicates(rows)[0])})
    for finding in text_faults(rows):
        faulty[finding.kind].add(finding.row)
    told = [f"{KINDS[kind].title('en')} {len(faulty[kind]):,}" for kind in KINDS if KINDS[kind].certain and faulty[kind]]
    which = "rows" if len(rows) == len(store.rows) else f"first {len(rows):,} rows"
    return f"{', '.join(told) or 'no fault found'} in the {which}, looked at quickly; a full audit: python -m e5ft audit"
