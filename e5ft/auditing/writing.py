"""What can be wrong with a text by itself: prefixes, decomposed letters, broken characters, HTML, nothing, boilerplate, an end cut off."""

import re
import unicodedata
from collections.abc import Iterator

import numpy as np

from e5ft.auditing.mojibake import repaired
from e5ft.auditing.rows import DOCUMENT, NEGATIVE, PASSAGES, QUERY, AuditedRows, Finding
from e5ft.data.text import normalise

_PREFIX = re.compile(
    r"\s*((?:query|passage|document|question|answer|instruct|search_query|search_document|질문|질의|답변|문서|본문|단락)\s*[:：]"
    r"|[qa]\s*[:：]\s|(?-i:Q\.\s|A\.\s+(?=[가-힣]))|\[(?:질문|답변|Q|A)\])",
    re.IGNORECASE,
)
_PARTS = re.compile("[\u0300-\u036f\u1100-\u11ff\u3099\u309a\ua960-\ua97f\ud7b0-\ud7ff]")  # what NFC may compose
_HTML = re.compile(
    r"</?(?:p|br|div|span|a|b|i|u|em|strong|li|ul|ol|td|th|tr|table|tbody|script|style|img|font|h[1-6]|iframe)(?:\s[^<>]*)?/?>"
    r"|&(?:nbsp|lt|gt|amp|quot|apos|#\d{2,5}|#x[0-9a-f]{2,4});",
    re.IGNORECASE,
)
_NOTHING = re.compile(
    r"(?:없음|내용\s?없음|내용이?\s?없습니다|정보\s?없음|해당\s?없음|미정|미입력|미등록|준비\s?중(?:입니다)?|테스트|n\s?/?\s?a|tbd|todo|empty|test"
    r"|no\s(?:content|data|text)|not\savailable|unknown|null|none|nan|undefined|lorem ipsum.*)",
    re.IGNORECASE,
)
# Each says alone that a page was no content; the text around it is short.
_NOTICES = re.compile(
    r"페이지를? 찾을 수 없|페이지가 (?:존재하지|삭제)|요청하신 (?:페이지|주소|자료)|접근 ?권한이 없|잠시 후 (?:다시|이용)|(?:시스템|서비스) 점검"
    r"|(?:자바스크립트|javascript)(?:를|을)? ?(?:켜|허용|활성화|사용하도록)|(?:enable|requires?) javascript|javascript is (?:disabled|required)|page (?:was )?not found|\b(?:error|오류) ?(?:404|403|500)\b|\b(?:404|403|500) ?(?:error|not found|forbidden|오류)|access denied|무단 ?(?:전재|복제|배포)|재배포 ?금지"
    r"|all rights reserved|copyright ?(?:©|\(c\)|ⓒ|(?:19|20)\d\d)|© ?(?:19|20)\d\d|저작권자 ?[ⓒ©(:]|ⓒ|쿠키(?:를|의)? ?(?:사용|동의|허용|설정)|(?:uses?|accept|enable) (?:all )?cookies"
    r"|로그인(?:이 필요|한? ?후|해 ?주)|(?:please )?(?:log|sign) ?in to|검색 결과가 없|등록된 [가-힣 ]{1,12}(?:이|가) 없|불편을 드려|lorem ipsum",
    re.IGNORECASE,
)
# Parts of menus and footers: several together fill such a text.
_MENU = re.compile(
    r"로그인|로그아웃|회원 ?가입|마이 ?페이지|장바구니|고객 ?센터|공지 ?사항|자주 묻는 질문|개인 ?정보 ?처리 ?방침|이용 ?약관|사이트 ?맵|찾아오시는 길|오시는 길"
    r"|회사 ?소개|본문 ?바로 ?가기|바로 ?가기|메뉴|목록(?:으로)?|이전 ?글|다음 ?글|공유(?:하기)?|댓글|구독(?:하기)?|더 ?보기|맨 ?위로|홈으로|카테고리|뉴스레터"
    r"|좋아요|스크랩|인쇄|글꼴 ?크기|사업자 ?등록 ?번호|대표 ?전화|통신 ?판매업|이메일 ?무단 ?수집 ?거부"
    r"|\b(?:log ?in|log ?out|sign ?(?:in|up)|register|my ?page|cart|home|menu|privacy policy|terms of (?:use|service)|site ?map|about us|contact(?: us)?"
    r"|subscribe|newsletter|share|comments?|read more|back to top|previous|next|search|follow us|cookies?)\b",
    re.IGNORECASE,
)
_NOTICE_LENGTH, _NOTICES_APART, _MENU_SHARE, _MENU_PARTS = 150, 2, 0.3, 3
_CLOSING = re.compile(r"(?:\s|[\"'’”)\]}»」』】〉》*_]|\[[^\[\]]{0,80}\](?::\d+)?|\([^()]{0,80}\))+$")
_ELLIPSIS = re.compile(r"(?:\.{3,}|…)\s*(?:더 ?보기|more|read more)?$", re.IGNORECASE)
_MARKS = tuple(".?!。！？．｡:;")
_SENTENCES = 0.9  # of the passages end as sentences do, where one that does not was cut
_NO_VERB = re.compile(r"\S(?:마다|보다)$|(?:바다|에다|캐나다)$")  # particles and a noun that end as verbs do
_POLITE = "이니하되세해어아예에네지까와워돼여려셔져쳐켜펴춰줘둬꿔봐써커꺼나가고"  # before 요 at the end of a verb
_END = 200  # characters in which the end of a text is looked at
_SHORTEST_LIMIT = 80  # characters: shorter texts are of one length by chance
_PILE, _PILE_SHARE = 5, 0.01  # passages of exactly the largest length, from which on it is a limit


def text_faults(rows: AuditedRows) -> Iterator[Finding]:
    """Find what is wrong with single texts.

    Args:
        rows: what is audited.

    Yields:
        Each use of a faulty text; the evidence is what was found in it, or how it would read.
    """
    everywhere = (QUERY, DOCUMENT, NEGATIVE)
    for kind, look, roles in (
        ("prefix", _prefix, everywhere),
        ("nfd", _decomposed, everywhere),
        ("mojibake", repaired, everywhere),
        ("html", _html, everywhere),
        ("empty", _nothing, everywhere),
        ("boilerplate", _boilerplate, PASSAGES),
        ("cut_off", _Ends(rows), PASSAGES),
    ):
        evidence = {n: found for n, text in enumerate(rows.texts) if (found := look(text)) is not None}
        flagged = np.zeros(len(rows.texts), dtype=bool)
        flagged[list(evidence)] = True
        for row, field, number in rows.using(flagged, *roles):
            yield Finding(kind, row, field, number, evidence[number])


def _prefix(text: str) -> str | None:
    match = _PREFIX.match(text)
    return None if match is None else match[1]


def _decomposed(text: str) -> str | None:
    if unicodedata.is_normalized("NFC", text) or not _PARTS.search(text):
        return None
    return unicodedata.normalize("NFC", text)


def _html(text: str) -> str | None:
    match = _HTML.search(text)
    return None if match is None else match[0]


def _nothing(text: str) -> str | None:
    bare = normalise(text).strip(" .-_()[]<>*\"'")
    return "" if not any(map(str.isalnum, bare)) or _NOTHING.fullmatch(bare) else None


def _boilerplate(text: str) -> str | None:
    notices, letters = _NOTICES.findall(text), sum(not character.isspace() for character in text)
    if notices and (letters <= _NOTICE_LENGTH or len(notices) > _NOTICES_APART * letters / _NOTICE_LENGTH):
        return ", ".join(dict.fromkeys(notices))
    parts = [match[0] for match in _MENU.finditer(text)]
    if len(set(parts)) >= _MENU_PARTS and sum(map(len, parts)) >= _MENU_SHARE * letters:
        return ", ".join(dict.fromkeys(parts))
    return None


class _Ends:
    """Finds passages that end in the middle: where nearly all others end as a sentence does, or have exactly one largest length."""

    def __init__(self, rows: AuditedRows):
        texts = [rows.texts[number] for number in rows.distinct(*PASSAGES)]
        ended = sum(_ends(text) for text in texts)
        self._sentences = ended >= _SENTENCES * len(texts)
        lengths = np.array([len(text) for text in texts])
        most = lengths.max(initial=0)
        piled = int((lengths == most).sum())
        self._limit = most if most >= _SHORTEST_LIMIT and piled >= max(_PILE, _PILE_SHARE * len(texts)) else None

    def __call__(self, text: str) -> str | None:
        if _ELLIPSIS.search(text[-_END:]):
            return text[-30:]
        if len(text) == self._limit and not _ends(text):
            return f"{text[-30:]} | {len(text):,}"
        return text[-30:] if self._sentences and not _ends(text) else None


def _ends(text: str) -> bool:
    """Whether a passage ends as a sentence does: with a mark, or a Korean verb (했다, 크다, 쉽다, 입니다, 해요)."""
    bare = _CLOSING.sub("", text[-_END:])
    if not bare or bare.endswith(_MARKS):
        return True
    if len(bare) < 2 or not "가" <= bare[-2] <= "힣":
        return False
    if bare[-1] == "다":
        return not _NO_VERB.search(bare)
    # 군요, 있어요, 해요, 네요, 걸려요, 써요; 필요 and 수요 are nouns.
    return bare[-1] == "죠" or (bare[-1] == "요" and (bare[-2] == "군" or bare[-2] in _POLITE))
