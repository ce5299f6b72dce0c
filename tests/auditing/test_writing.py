"""What can be wrong with a text by itself."""

import unicodedata

import pytest

from e5ft.auditing.writing import text_faults
from tests.auditing.conftest import row

SOUND = [
    "서울의 겨울은 춥고 건조합니다.",
    "낮과 밤의 기온 차가 크다",
    "사람마다 부르는 이름이 다르다",
    "이 길은 짧고 저 길은 길다",
    "값이 싸고 쓰기 쉽다",
    "가게는 저녁에도 열지요",
    "배송은 사흘쯤 걸려요",
    "결제 수단을 바꿔 줘요",
    "비가 오면 도로가 미끄러워 천천히 달려야 한다",
    "이 앱은 로그인 기록을 서른 날 동안 보관하며, 그 뒤에는 스스로 지웁니다. 문의는 고객센터로 하시면 됩니다.",
    "쿠키는 사이트가 브라우저에 남기는 작은 파일입니다. 장바구니처럼 다시 찾아올 때 필요한 것을 기억합니다.",
    "500~800km를 달린 신발은 바꾸어야 합니다(밑창이 닳았을 때).",
    "A bridge with 404 stones was built in 1503.",
    "부등호 a < b 와 c > d 를 함께 쓸 수 있다. [1]",
    '그는 "다시 오겠다"고 말했다."',
    "이 판결은 뒤에 바뀌었다. [전원합의체 판결로 폐기] [주 1]:15",
    "Q10 효소는 심장에 많이 들어 있습니다.",
    "쿼리는 데이터베이스에 묻는 말입니다!",
    "A. Lincoln was born in 1809.",
    "자바스크립트는 브라우저에서 실행되는 언어입니다.",
    "Copyright law protects what an author wrote.",
]


def found(rows) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for finding in text_faults(rows):
        kinds.setdefault(finding.kind, []).append(rows.texts[finding.text])
    return kinds


def test_sound_texts_have_no_fault(make_audited):
    assert found(make_audited([row(f"질문 {n}", text) for n, text in enumerate(SOUND)])) == {}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(("prefix", text) for text in ("query: 서울 날씨", "Passage : 글입니다.", "질문: 어디인가요?", "Q. 왜죠?", "A. 네, 됩니다.", "a: yes.", "[답변] 네.")),
        *(("nfd", unicodedata.normalize("NFD", text)) for text in ("서울 날씨.", "café au lait.")),
        *(("html", text) for text in ("가<br/>나.", "<p class='x'>글</p>.", "가&nbsp;나.", "&#44032;.")),
        *(("empty", text) for text in ("-", "...", "내용 없음", "없음.", "TBD", "🙂")),
        *(("boilerplate", text) for text in ("페이지를 찾을 수 없습니다.", "홈 > 공지사항 > 목록 | 로그인 | 회원가입.", "Please log in to see it.", "자바스크립트를 켜 주세요.", "Copyright 2024 Bridges Inc.")),
        *(("cut_off", text) for text in ("이 다리는 두 해 동안 닫혀 있다가 다시", "사람들이 걸어서 건너는 다리는...", "이 다리는 낮에는", "한 주마다", "이 강은 한강보다", "배를 타고 나가면 넓은 바다", "꼭 챙길 것은 중요")),
    ],
)  # fmt: skip
def test_a_fault_is_found(make_audited, kind, text):
    rows = make_audited([row("물음", text), *(row(f"질문 {n}", sound) for n, sound in enumerate(SOUND))])
    told = found(rows)
    told.pop("cut_off" if kind != "cut_off" else "", None)  # the audit tells one fault of a text
    assert told == {kind: [text]}


def test_passages_that_never_end_as_sentences_are_not_cut_off_unless_at_one_length(make_audited):
    titles = [f"제목만 있는 글 {n}" for n in range(40)]
    assert found(make_audited([row(f"질문 {n}", title) for n, title in enumerate(titles)])) == {}
    limited = [f"{title} {'가나다라마바사' * 20}"[:100] for title in titles[:8]]
    assert found(make_audited([row(f"질문 {n}", text) for n, text in enumerate([*titles[8:], *limited])])) == {"cut_off": limited}


def test_hostile_texts_take_no_time(make_audited):
    texts = [" " * 9 + "(" * 50_000, "?" * 50_000 + "a", "<p " * 20_000, "[1]" * 20_000 + "x", "Â" * 50_000]
    assert found(make_audited([row("물음", text) for text in texts]))  # a regular expression that backtracks would never end
