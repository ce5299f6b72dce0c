"""The texts of a row store: each once, in order, from Arrow as from the rows."""

import numpy as np

from e5ft.data.stored_texts import StoredTexts
from e5ft.data.text import text_id


def test_distinct_texts_come_in_the_order_of_the_rows_and_again(make_store):
    rows = [{"query": f"q{i % 900}", "document": [f"d{i % 1100}", f"e{i}"]} for i in range(2300)]
    store = make_store(rows)
    for texts in (store, store.select(np.arange(2299, -1, -3))):
        queries, documents = StoredTexts(texts, "query"), StoredTexts(texts, "positives")
        assert list(queries) == list(queries) == list(dict.fromkeys(row.query for row in texts))
        expected = list(dict.fromkeys(text for row in texts for text in row.positives))
        assert list(documents) == expected and len(documents) == len(expected)
        assert documents.ids.tolist() == list(map(text_id, expected))
        first = {text: number for number, row in reversed(list(enumerate(texts))) for text in row.positives}
        assert documents.owners.tolist() == [first[text] for text in expected]
        third = documents.every(3)
        assert list(third) == list(third) == expected[::3] and third.ids.tolist() == list(map(text_id, expected[::3]))
