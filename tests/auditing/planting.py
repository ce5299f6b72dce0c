"""Twelve kinds of faults, planted into sound rows; which rows have which is known."""

import random
import re
import unicodedata

KINDS = (
    *("exact_duplicate", "near_duplicate", "negative_equals", "negative_answers", "boilerplate", "overlap"),
    *("prefix", "nfd", "mojibake", "cut_off", "language", "label_error"),
)
BOILERPLATE = (
    "-",
    "내용 없음",
    "준비 중입니다.",
    "요청하신 페이지를 찾을 수 없습니다. 주소를 다시 확인해 주세요.",
    "홈 | 회사소개 | 공지사항 | 고객센터 | 로그인 | 회원가입",
    "이 기능을 쓰려면 브라우저의 자바스크립트를 켜야 합니다.",
    "본 기사의 무단 전재와 재배포를 금지합니다. 저작권자 한빛일보",
    "이전글 다음글 목록 댓글 0 공유 인쇄 스크랩",
    "시스템 점검 중입니다. 잠시 후 다시 이용해 주십시오.",
    "검색 결과가 없습니다. 다른 검색어를 입력해 보세요.",
    "We use cookies to improve your visit. Accept all cookies to continue.",
    "Please log in to read this article.",
    "개인정보처리방침 | 이용약관 | 이메일무단수집거부 | 찾아오시는 길",
    "로그인이 필요한 서비스입니다. 로그인 후 이용해 주세요.",
    "Copyright 2021 Hanbit Corp. All rights reserved.",
    "N/A",
)
FOREIGN = (
    "この町では毎年春になると川沿いの道で小さな市が開かれ、多くの人が花や野菜を買いに来ます。",
    "Осенью жители деревни собирают яблоки и готовят из них варенье, которого хватает на всю зиму.",
    "The old bridge was closed for two years and is now open again for people who walk or cycle to work.",
    "Im Winter bleibt der See meist zugefroren, und die Kinder laufen dort mit den Schlittschuhen, die von den Eltern sind.",
    "每天早上他沿着河边散步，然后在小店里买一杯豆浆和两个包子，再去图书馆看书。",
    "Le marché se tient sur la place chaque samedi et les habitants y achètent des légumes qui sont de la région.",
    "ทุกเช้าแม่ค้านำผักสดจากสวนมาขายที่ตลาดริมคลองก่อนพระอาทิตย์ขึ้น",
    "En el pueblo hay una fuente que da agua todo el año y por la tarde se reúnen los vecinos para hablar.",
)
_HANGUL = re.compile("[가-힣]")
_PREFIXES = (
    ("query", "query: "),
    ("document", "passage: "),
    ("query", "질문: "),
    ("query", "Q. "),
    ("document", "답변: "),
    ("query", "[질문] "),
)


def plant(rows: list[dict], evaluation: list[tuple[str, str]], count: int, seed: int) -> tuple[list[dict], dict[str, set[int]]]:
    """Plant `count` faults of each kind.

    Args:
        rows: sound ones {"query", "document", "hard_negative"}, one document and one hard negative each.
        evaluation: queries of an evaluation set, each with a passage that answers it.
        count: of each kind.
        seed: of every choice.

    Returns:
        The rows, and kind -> the numbers of the rows that have it. A row has one fault at most; "touched" are all rows that
        are not as they were.
    """
    draw, rows, size = random.Random(seed), [dict(row) for row in rows], len(rows)
    order = draw.sample(range(size), size)
    truth: dict[str, set[int]] = {kind: set() for kind in KINDS}
    touched = set()
    for kind in KINDS:
        for turn in range(count):
            at = order.pop()
            while kind in ("nfd", "mojibake", "language") and not _HANGUL.search(rows[at]["document"]):  # ASCII has none of these
                at = order.pop()
            row, other = rows[at], rows[order[draw.randrange(len(order))]]
            if kind in ("exact_duplicate", "near_duplicate"):
                edited = kind == "near_duplicate"
                rows.append(
                    {**row, "query": _edited(row["query"], draw), "document": _edited(row["document"], draw)}
                    if edited
                    else dict(row)
                )
                truth[kind].add(len(rows) - 1)
                touched |= {at, len(rows) - 1}
                continue
            if kind == "negative_answers" and turn % 2:  # the second answer is in another row
                second = {**row, "document": other["document"], "hard_negative": []}
                rows.append(second)
                touched.add(len(rows) - 1)
            rows[at] = _FAULTS[kind](row, other, draw, turn, evaluation)
            truth[kind].add(at)
            touched.add(at)
    return rows, {**truth, "touched": touched}


def _edited(text: str, draw: random.Random) -> str:
    """A word left out or said twice, another end: what editing leaves."""
    words = text.split()
    place = draw.randrange(len(words))
    if len(words) > 8:
        words = [*words[:place], *words[place + 1 :]]
    elif len(text) > 12:
        words = [*words[:place], words[place] + draw.choice("은는도을"), *words[place + 1 :]]
    return " ".join(words).rstrip(".?!") + draw.choice([" ", "!", "..", " ?"])


def _answering(row: dict, other: dict, draw: random.Random, turn: int, evaluation) -> dict:
    if turn % 2:
        return {**row, "hard_negative": [row["hard_negative"], other["document"]]}
    sentences = row["document"].split(". ")
    most = sentences[: max(len(sentences) - 1, -(-2 * len(sentences) // 3))]
    return {**row, "hard_negative": ". ".join([other["document"].split(". ")[0], *most]) + "."}


def _leaked(row: dict, other: dict, draw: random.Random, turn: int, evaluation) -> dict:
    query, answer = evaluation[turn % len(evaluation)]
    return {**row, "query": query if turn % 2 else f"{query} ", "document": answer} if turn % 3 else {
        **row, "query": query.rstrip("?.") + "?!", "document": answer
    }  # fmt: skip


def _prefixed(row: dict, other: dict, draw: random.Random, turn: int, evaluation) -> dict:
    field, prefix = _PREFIXES[turn % len(_PREFIXES)]
    return {**row, field: prefix + row[field]}


def _broken(row: dict, other: dict, draw: random.Random, turn: int, evaluation) -> dict:
    text = row["document"]
    ways = (
        lambda: text.encode().decode("latin-1"),
        lambda: text.encode().decode("cp1252", "replace"),
        lambda: text.encode("cp949", "replace").decode("latin-1"),
        lambda: text.encode().decode("cp949", "replace"),
        lambda: text.encode("ascii", "replace").decode(),
    )
    return {**row, "document": ways[turn % len(ways)]()}


def _cut(row: dict, other: dict, draw: random.Random, turn: int, evaluation) -> dict:
    text = row["document"]
    end = int(len(text) * draw.uniform(0.4, 0.8))
    while not text[end - 1].isalnum():
        end -= 1
    end -= 2 * (text[end : end + 1] in (".", "?", "!"))  # a whole sentence without its mark is not cut
    return {**row, "document": text[:end]}


_FAULTS = {
    "negative_equals": lambda row, *_: {**row, "hard_negative": [row["hard_negative"], f" {row['document']}"]},
    "negative_answers": _answering,
    "boilerplate": lambda row, other, draw, turn, _: {**row, "document": BOILERPLATE[turn % len(BOILERPLATE)]},
    "overlap": _leaked,
    "prefix": _prefixed,
    "nfd": lambda row, other, draw, turn, _: {
        **row,
        **{field: unicodedata.normalize("NFD", row[field]) for field in (("query", "document")[turn % 2],)},
    },  # fmt: skip
    "mojibake": _broken,
    "cut_off": _cut,
    "language": lambda row, other, draw, turn, _: {**row, "document": FOREIGN[turn % len(FOREIGN)]},
    "label_error": lambda row, other, *_: {**row, "document": other["document"]},
}
