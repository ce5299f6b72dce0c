"""The kinds of faults: what each means and what to do about it, in English and Korean."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: in audit.json.
        certain: whether it is read off the rows by a rule that needs no judgement; else it is a suspicion, to be read. None: no
            fault is told by it, a model must look.
        words: language -> title, meaning, what to do.
    """

    name: str
    certain: bool | None
    words: dict[str, tuple[str, str, str]]

    def title(self, language: str) -> str:
        """What a person calls it."""
        return self.words[language][0]

    def meaning(self, language: str) -> str:
        """What it is."""
        return self.words[language][1]

    def remedy(self, language: str) -> str:
        """What to do."""
        return self.words[language][2]


_CERTAIN = {
    "unreadable": (
        (
            "unreadable rows",
            "No usable query or document: training refuses the row.",
            "Mend the row, or leave it out: data.on_bad_row=skip.",
        ),
        (
            "읽을 수 없는 행",
            "쓸 수 있는 질의나 문서가 없어 학습이 거부합니다.",
            "행을 고치거나 data.on_bad_row=skip으로 제외하십시오.",
        ),
    ),
    "empty": (
        (
            "empty texts",
            "A text without a letter or digit, or a stand-in for nothing (없음, n/a).",
            "write= leaves such documents out; mend such queries.",
        ),
        (
            "빈 텍스트",
            "글자나 숫자가 없거나 '없음', 'n/a'처럼 빈 값을 대신한 텍스트입니다.",
            "문서는 write=가 제외합니다. 질의는 고치십시오.",
        ),
    ),
    "overlap": (
        (
            "evaluation queries in the rows",
            "The query is one of the evaluation set, or nearly one with the same answer: the score would tell what was learnt by heart.",
            "Take the rows out; write= does where the query is the same.",
        ),
        (
            "평가 질의와 중복",
            "평가 집합의 질의와 같거나, 답이 같으면서 거의 같은 질의입니다. 외운 것을 점수로 재게 됩니다.",
            "학습 데이터에서 제외하십시오. 질의가 같은 행은 write=가 제외합니다.",
        ),
    ),
    "exact_duplicate": (
        (
            "exact duplicate rows",
            "Query, documents and hard negatives equal those of an earlier row.",
            "write= keeps the first.",
        ),
        ("완전 중복 행", "질의, 문서, 하드 네거티브가 앞의 행과 같습니다.", "write=가 첫 행만 남깁니다."),
    ),
    "negative_equals": (
        (
            "hard negatives that are the answer",
            "A hard negative is a document of the same row; training leaves it out.",
            "Look at how the negatives were made.",
        ),
        (
            "정답과 같은 하드 네거티브",
            "하드 네거티브가 같은 행의 정답 문서와 같습니다. 학습에서는 제외합니다.",
            "하드 네거티브를 만든 방법을 확인하십시오.",
        ),
    ),
    "prefix": (
        (
            "prefixes in the text",
            "The text begins with 'query:', 'passage:', 'Q:', '질문:' or the like, which the model then reads as content.",
            "Take it out of the file: e5ft puts the model's prefix before every text.",
        ),
        (
            "텍스트에 들어 있는 접두어",
            "텍스트가 'query:', 'passage:', 'Q:', '질문:' 등으로 시작하여 모델이 내용으로 읽습니다.",
            "파일에서 지우십시오. 모델의 접두어는 e5ft가 붙입니다.",
        ),
    ),
    "nfd": (
        (
            "decomposed letters (NFD)",
            "Letters are stored in parts (ㅎ+ㅏ+ㄴ), as macOS names files: most tokenizers read other pieces.",
            "e5ft composes them itself; convert the file (NFC) for all other programs.",
        ),
        (
            "분해된 글자(NFD)",
            "한글이 자모로 나뉘어 저장되어 있어(macOS 파일 이름 등) 대부분의 토크나이저가 다르게 읽습니다.",
            "e5ft는 스스로 NFC로 합칩니다. 다른 프로그램을 위해 파일을 NFC로 바꾸십시오.",
        ),
    ),
    "mojibake": (
        (
            "broken characters",
            "The text was read in a wrong encoding (ì•ˆë…•, 臾댁뒯, �).",
            "Export again, or name the encoding: data.encoding=cp949.",
        ),
        (
            "깨진 글자",
            "잘못된 인코딩으로 읽은 텍스트입니다(ì•ˆë…•, 臾댁뒯, �).",
            "다시 내보내거나 인코딩을 지정하십시오: data.encoding=cp949.",
        ),
    ),
    "html": (
        ("HTML remains", "Tags or entities are in the text (<br>, &nbsp;).", "Take the text out of the HTML before training."),
        ("남은 HTML", "태그나 엔티티가 텍스트에 남아 있습니다(<br>, &nbsp;).", "학습 전에 HTML에서 텍스트만 추출하십시오."),
    ),
}
_SUSPECTED = {
    "near_duplicate": (
        (
            "near-duplicate rows",
            "Query and document are nearly those of an earlier row.",
            "Keep one, unless the difference is what matters.",
        ),
        ("거의 같은 행", "질의와 문서가 앞의 행과 거의 같습니다.", "차이가 중요하지 않다면 하나만 남기십시오."),
    ),
    "near_document": (
        (
            "documents that are nearly the same",
            "Another query's document is nearly the same: in training each is a wrong answer to the other's query.",
            "Keep one of them, or name both as documents of both queries.",
        ),
        (
            "거의 같은 문서",
            "다른 질의의 문서와 거의 같습니다. 학습에서 서로의 질의에 오답으로 쓰입니다.",
            "하나만 남기거나, 두 질의 모두에 두 문서를 정답으로 적으십시오.",
        ),
    ),
    "negative_answers": (
        (
            "hard negatives that answer",
            "A hard negative is, or contains, a known answer of the query; with a model also: it outscores the answer.",
            "write= takes out what is a known answer; read the others.",
        ),
        (
            "정답인 하드 네거티브",
            "하드 네거티브가 그 질의의 알려진 정답이거나 정답을 담고 있습니다. 모델이 있으면 정답보다 점수가 높은 것도 포함합니다.",
            "알려진 정답은 write=가 제외합니다. 나머지는 읽어 보십시오.",
        ),
    ),
    "label_error": (
        (
            "answers that do not fit",
            "By BM25 and the model, the query finds other documents and its own hardly at all: most often a wrong document.",
            "Read them: correct the document, or take the row out.",
        ),
        (
            "맞지 않는 정답",
            "BM25와 모델로 검색하면 다른 문서는 찾으면서 자기 문서는 거의 찾지 못합니다. 대개 문서가 잘못된 행입니다.",
            "읽어 보고 문서를 고치거나 행을 제외하십시오.",
        ),
    ),
    "false_negative": (
        (
            "documents that may answer, too",
            "By the model another row's document answers the query better than its own: training takes it for a wrong answer.",
            "Name it as a document of this query, or train with loss.false_negatives=margin.",
        ),
        (
            "또 다른 정답으로 보이는 문서",
            "모델 점수로는 다른 행의 문서가 자기 문서보다 질의에 더 맞습니다. 학습은 이를 오답으로 봅니다.",
            "이 질의의 정답으로 추가하거나 loss.false_negatives=margin으로 학습하십시오.",
        ),
    ),
    "boilerplate": (
        (
            "boilerplate",
            "Menus, notices and error pages instead of content (log in, cookies, page not found).",
            "Take the row out, or the boilerplate out of the text.",
        ),
        (
            "상용구",
            "내용 대신 메뉴, 안내문, 오류 화면이 들어 있습니다(로그인, 쿠키, 페이지를 찾을 수 없음).",
            "행을 제외하거나 텍스트에서 상용구를 지우십시오.",
        ),
    ),
    "cut_off": (
        (
            "texts that end in the middle",
            "Nearly all passages end as a sentence does, this one does not: an export or a limit cut it.",
            "Export the whole text.",
        ),
        (
            "중간에 잘린 텍스트",
            "거의 모든 문서가 문장으로 끝나는데 이 문서는 그렇지 않습니다. 내보내기나 길이 제한이 자른 것입니다.",
            "전체 텍스트를 다시 내보내십시오.",
        ),
    ),
    "too_long": (
        (
            "texts longer than the model reads",
            "What lies beyond the model's length is not read, in training and in search.",
            "Cut the documents into passages before training.",
        ),
        (
            "모델 길이를 넘는 텍스트",
            "모델 길이를 넘는 부분은 학습에서도 검색에서도 읽지 않습니다.",
            "학습 전에 문서를 단락으로 나누십시오.",
        ),
    ),
    "language": (
        (
            "texts in another language",
            "Query and document are of two languages, which few rows are.",
            "Correct the row, unless search across languages is meant.",
        ),
        (
            "다른 언어의 텍스트",
            "질의와 문서의 언어가 다르며, 그런 행이 드뭅니다.",
            "언어를 넘는 검색이 목적이 아니라면 행을 고치십시오.",
        ),
    ),
}
_UNDECIDED = {
    "hardly_found": (
        (
            "answers that BM25 hardly finds",
            "The query finds other documents and its own hardly: it asks in other words, or its document is wrong. Words cannot tell.",
            "Give the command again with a model, which can: model.path=DIR.",
        ),
        (
            "BM25가 거의 찾지 못하는 정답",
            "질의가 다른 문서는 찾으면서 자기 문서는 거의 찾지 못합니다. 다른 말로 물었거나 문서가 잘못된 것이며, 단어만으로는 가릴 수 없습니다.",
            "model.path=DIR로 모델을 지정하여 다시 실행하면 가려낼 수 있습니다.",
        ),
    ),
}
# In the order in which they are told.
KINDS = {
    name: Kind(name, certain, dict(zip(("en", "ko"), words, strict=True)))
    for certain, kinds in ((True, _CERTAIN), (False, _SUSPECTED), (None, _UNDECIDED))
    for name, words in kinds.items()
}
