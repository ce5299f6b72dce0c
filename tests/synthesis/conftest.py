"""A local server of chat completions: it answers by a function, remembers what it was asked, and fails as it is told."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from e5ft.synthesis.chunks import cut
from e5ft.synthesis.documents import Document, Section

NOUNS = [
    "연차",
    "급여",
    "출장",
    "교육",
    "보험",
    "장비",
    "보안",
    "채용",
    "평가",
    "복지",
    "주차",
    "식당",
    "회의",
    "계정",
    "망",
    "인쇄",
    "카드",
    "경비",
    "계약",
    "기록",
]
PLACES = [
    "강릉",
    "춘천",
    "원주",
    "속초",
    "동해",
    "삼척",
    "태백",
    "홍천",
    "횡성",
    "영월",
    "평창",
    "정선",
    "철원",
    "화천",
    "양구",
    "인제",
    "고성",
    "양양",
    "수원",
    "성남",
]


class Chat(BaseHTTPRequestHandler):
    """`server.failures` are sent first, each once: (status, headers, body)."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append((self.path, self.headers.get("Authorization"), body))
            failure = self.server.failures.pop(0) if self.server.failures else None
        if failure is not None:
            return self.reply(*failure)
        text = self.server.answer(body["messages"][-1]["content"])
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        self.reply(200, {}, {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage})

    def reply(self, status, headers, body):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def chat():
    """The server: `url` (ending in /v1), `answer` (prompt -> text), `failures`, and what it has `seen`."""
    made = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    made.answer, made.failures, made.seen, made.lock = lambda prompt: "질문인가요?", [], [], threading.Lock()
    made.url = f"http://127.0.0.1:{made.server_port}/v1"
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def make_documents(count: int = 20) -> list[Document]:
    """Documents of four sections, whose texts tell them apart."""
    documents = []
    for n, noun in enumerate(NOUNS[:count]):
        near, far = PLACES[n], PLACES[(n + 7) % len(PLACES)]
        sections = [
            Section((), [f"{noun} 규정은 {near} 지점이 정한다. 담당자는 {far} 회의에서 {noun} 규정을 {n + 1}번 확인한다."]),
            Section(
                (f"{noun} 신청 절차",),
                [f"{noun} 신청은 {near} 창구에서 받는다. {noun} 서류는 {far} 지점으로 {n + 3}일 안에 보낸다."],
            ),
            Section(
                (f"{noun} 취소 절차",),
                [f"{noun} 취소는 {far} 담당자가 처리한다. {noun} 환불은 {near} 은행이 {n + 5}주 뒤에 한다."],
            ),
            Section(("물음",), [f"Q: {noun} 위원회는 누가 여나요?\nA: {noun} 위원회는 {far} 위원장이 {n + 1}월에 연다."]),
        ]
        documents.append(Document(f"{noun}.md", f"{noun} 안내서", sections))
    return documents


@pytest.fixture
def chunks():
    return cut(make_documents(), 10, 200).chunks
