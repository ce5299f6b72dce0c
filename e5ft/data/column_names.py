"""The names that columns of rows have in the field, in English, Korean, Chinese and Japanese, and how a message shows them."""

import difflib
import re
import unicodedata
from collections.abc import Callable, Sequence

from e5ft.settings import BARE_WORD

MOST_NAMED = 40  # columns in one message
# fmt: off
QUERIES = ("query", "question", "anchor", "질문", "질의", "질의문", "쿼리", "问题", "問題", "查询", "查詢", "提问", "質問", "クエリ")
DOCUMENTS = (
    "document", "passage", "answer", "positive", "context", "text", "답변", "답", "정답", "응답", "문서", "본문", "지문", "단락",
    "答案", "正确答案", "正例", "回答", "文档", "文檔", "段落", "文書", "答え",
)
NEGATIVES = (
    "hard_negative", "negative", "hard_negatives", "negatives", "hard_neg", "hard_negs", "neg", "오답", "错误答案", "负例", "負例",
)
PASSAGE_IDS = (
    "document_id", "document_ids", "doc_id", "doc_ids", "docid", "docids", "passage_id", "passage_ids", "pid", "pids",
    "positive_id", "positive_ids", "pos_id", "pos_ids", "positive_document_ids", "positive_doc_ids", "positive_passage_ids",
    "corpus_id", "corpus-id",
)
NEGATIVE_IDS = (
    "negative_id", "negative_ids", "neg_id", "neg_ids", "negative_document_ids", "negative_doc_ids", "negative_passage_ids",
    "hard_negative_id", "hard_negative_ids",
)
LABELS = (
    "label", "labels", "score", "relevance", "relevances", "similarity", "relatedness", "rel",
    "relevant", "grade", "judgement", "judgment", "click", "clicked", "is_positive", "is_correct", "is_selected", "라벨", "레이블",
    "점수", "관련도", "유사도", "정답여부", "클릭", "标签", "分数", "相关性", "ラベル",
)
# fmt: on
FIRST_SENTENCES, SECOND_SENTENCES = ([f"{name}{n}" for name in ("sentence", "sentence_", "text", "text_")] for n in (1, 2))
NUMBERED = re.compile(r"(?:hard_?)?neg(?:ative)?s?[_\- ]?(\d+)")
_NEGATIVE = re.compile(r"(?:^|[_\-. ])(?:hard)?negs?(?:$|[_\-. ]|ative)|^rejected|^distractor|오답|错误|負例|负例")
_VALUE = re.compile(r"-?[\d.]+|.{80,}|.*\s.*[.?!。？！다요까]\s*|[\[{].*", re.DOTALL)


def is_label(name: str) -> bool:
    """Whether a column of this name says how well a document answers its query."""
    folded = fold(name)
    return folded in LABELS or re.split(r"[_\-. ]+", folded)[-1] in LABELS


def is_negative(name: str) -> bool:
    """Whether a column of this name, perhaps misspelt, holds hard negatives."""
    folded = fold(name)
    return _NEGATIVE.search(folded) is not None or bool(difflib.get_close_matches(folded[:40], NEGATIVES, n=1, cutoff=0.85))


def are_values(names: Sequence[str]) -> bool:
    """Whether what takes the place of names is a row: texts or numbers. Columns that are counted from 0 are names."""
    if list(names) == [str(number) for number in range(len(names))]:
        return False
    return 2 * sum(_VALUE.fullmatch(name.strip()) is not None for name in names) >= len(names)


def is_passage_id(name: str) -> bool:
    """Whether a column of this name holds passages' ids."""
    return fold(name) in (*PASSAGE_IDS, *NEGATIVE_IDS)


def can_be_typed(names: Sequence[str]) -> bool:
    """Whether a message may hold these names as settings: few, short, and in characters that a terminal shows."""
    return len(names) <= MOST_NAMED and all(len(name) <= 100 and name.isprintable() for name in names)


def shown_name(name: str) -> str:
    """A column's name in a sentence; quoted where it is blank or has spaces."""
    return name if BARE_WORD.fullmatch(name) else repr(name)


def present(known: Sequence[str], names: Sequence[str]) -> list[str]:
    """Those of the names that are known, in the order of the known ones; capitals and spaces around them do not matter."""
    order = {name: number for number, name in enumerate(known)}
    return sorted((name for name in names if fold(name) in order), key=lambda name: order[fold(name)])


def numbered(names: Sequence[str]) -> list[str]:
    """Columns of hard negatives that are counted, in the order of their numbers."""
    found = {name: match for name in names if (match := NUMBERED.fullmatch(fold(name)))}
    return sorted(found, key=lambda name: int(found[name][1]))


def fold(name: str) -> str:
    """A name without what people write differently."""
    return unicodedata.normalize("NFC", name.strip("\ufeff \t\r\n")).casefold()


def quoted(names: Sequence[str]) -> str:
    """Names in a message, as Python writes them."""
    return some(names, repr)


def some(names: Sequence[str], show: Callable[[str], str]) -> str:
    """The first MOST_NAMED names in a message, and how many more there are."""
    texts = [text if len(text) <= 60 else f"{text[:57]}..." for text in map(show, names[:MOST_NAMED])]
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return (", ".join(texts) + more).encode("utf-8", "backslashreplace").decode()
