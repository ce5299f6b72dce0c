"""The model card quotes names that anybody may have chosen: none becomes markup, a link, or another key of the front matter."""

import ast
import dataclasses
import json
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard
from hypothesis import example, given
from markdown_it import MarkdownIt

from e5ft.app.telling.report import card_of_run
from e5ft.data.lines import printable
from e5ft.data.text import TextSpec
from e5ft.exporting.card import hub_sets, language_of, plain_card
from e5ft.exporting.origin import Base
from e5ft.modeling.encoder import EncoderSpec
from tests.app.telling.test_report import DIFFERENCE, LEAK, NASTY, SCORES, VERDICT, prefixes, texts

SETTINGS = {
    "evaluation": {"cutoffs": [10]},
    "seed": 1,
    "data": {"train_file": ["own/rows", "rows.jsonl"], "mix": None, "eval_dir": "ko-wiki", "eval_split": "test"},
    "model": {"freeze": [], "lora": {"rank": None, "alpha": 32}},
    "loss": {"_target_": "e5ft.training.losses.InfoNCE", "temperature": 0.05, "margin": None},
    "step": {"negatives": "step"},
    "matryoshka": {"dimensions": [64, 128]},
    "keep": {"weight": 0.0},
    "optimizer": {"lr": 2e-5},
    "training": {"num_train_epochs": 3, "bf16": False, "logging_steps": 10},
}


def encoder(query: str = "query: ", passage: str = "passage: ", pooling: str = "mean"):
    return SimpleNamespace(dimension=8, spec=EncoderSpec(pooling, TextSpec(query_prefix=query, passage_prefix=passage)))


def card(label: str, source: str, test_set: str, keep: str, prefix: str, base: Base | None = None, **more) -> str:
    scores = {when: {**SCORES, "label": f"{when} {label}"} for when in ("before", "after")}
    summary = {
        "model": label,
        "scores": scores,
        "data": {"source": source, "train_rows": 3, "language": "ko"},
        "test_set": test_set,
        "queries": 1234,
        "passages": 56789,
        "chosen_on_test": False,
        "threshold": None,
        "training": {"steps": 1, "queries_per_step": 2},
        "best": {"step": 1, "alpha": 1.0},
        "verdict": {**VERDICT, "set": test_set},
        "differences": DIFFERENCE,
        "keep": [{"set": keep, "scores": scores, "differences": DIFFERENCE}],
        "overlap": [{**LEAK, "set": keep, "role": keep}],
        **more,
    }
    settings = {**SETTINGS, "loss": {**SETTINGS["loss"], "note": prefix + "."}}
    return card_of_run(settings, summary, encoder(prefix), base or Base(label))


def tokens(written: str) -> list:
    return MarkdownIt("commonmark").enable("table").parse(ModelCard(written).text)


def structure(written: str) -> tuple[list, list]:
    """What a card is made of for a CommonMark reader: its blocks, and in its lines all but words and their emphasis."""
    blocks = tokens(written)
    children = [child.type for block in blocks for child in block.children or ()]
    return [(block.type, block.tag, block.info) for block in blocks], [
        kind for kind in children if not kind.startswith(("text", "em_", "strong_"))
    ]


HARMLESS = card("a", "b", "c", "d", "e")


@given(*[texts] * 4, prefixes)
@example(*NASTY[:5])
@example(*NASTY[4:9])
def test_no_name_changes_what_the_card_is_made_of(label, source, test_set, keep, prefix):
    written = card(label, source, test_set, keep, prefix)
    assert structure(written) == structure(HARMLESS)
    assert all(c.isprintable() for line in written.splitlines() for c in line)
    data = ModelCard(written).data
    assert data.to_dict().keys() == ModelCard(HARMLESS).data.to_dict().keys()
    (result,) = data.eval_results
    assert data.model_name == printable(label) and result.dataset_name == printable(test_set)
    assert (result.task_type, result.metric_type, result.metric_value) == ("Retrieval", "ndcg_at_10", 50.0)
    assert ", 1,234 queries among 56,789 passages, with 95 % intervals" in written


LONG_PREFIX = "Instruct: Given a web search query, retrieve relevant passages\nQuery: "  # of e5_large_instruct


@given(prefixes, prefixes)
@example(LONG_PREFIX, "<|query|>")
@example("```\n&#92;n `a` | b\r\n~~~", '\\n "quoted" \\')
def test_prefixes_copied_from_the_card_are_those_of_the_model(query, passage):
    """As a CommonMark reader sees it: the one block of JSON, and the strings of each block of Python."""
    written = plain_card("a", encoder(query, passage), Base("a"))
    blocks = [block for block in tokens(written) if block.type == "fence"]
    (shown,) = [json.loads(block.content) for block in blocks if block.info == "json"]
    assert shown == {"query": query, "document": passage}
    programs = [ast.parse(block.content) for block in blocks if block.info == "python"]
    for program in programs:
        strings = {node.value for node in ast.walk(program) if isinstance(node, ast.Constant)}
        assert ("text_instruction=" not in ast.unparse(program)) or {query, passage} <= strings
    assert len(programs) == 7


def test_prefixes_are_shown_as_they_are_to_be_typed():
    for prefix, line in (("Find it\nQuery: ", r'{"query": "Find it\nQuery: ",'), ("<|query|>", '{"query": "<|query|>",')):
        assert line in card("a", "b", "c", "d", prefix)


def test_the_front_matter_says_where_the_model_comes_from():
    base = Base("intfloat/multilingual-e5-small", "intfloat/multilingual-e5-small", "c0ffee", "mit", ("ko", "en"))
    written = card("a", "b", "c", "d", "e", base)
    data = ModelCard(written).data.to_dict()
    assert (data["base_model"], data["base_model_relation"], data["license"]) == (base.hub, "finetune", "mit")
    assert (data["language"], data["datasets"]) == ("ko", ["own/rows"])  # of the rows, not of the base
    assert (data["library_name"], data["pipeline_tag"]) == ("sentence-transformers", "sentence-similarity")
    assert "- base model: intfloat/multilingual-e5-small at revision c0ffee\n- licence: mit, the base model's\n" in written
    assert ModelCard(plain_card("a", encoder(), base)).data.language == ["ko", "en"]


def test_what_is_not_known_is_left_out_and_said():
    written = plain_card("mini", encoder(), Base("mini shape, random weights"))
    assert ModelCard(written).data.to_dict().keys() == {"library_name", "pipeline_tag", "tags"}
    assert "- licence: the base model's, which is not known here\n- language: not known here\n" in written


def test_settings_stand_in_a_table_by_their_names_and_without_this_machines_folders(tmp_path):
    rows = [line for line in card("a", "b", "c", "d", str(tmp_path / "guide"[:-1])).splitlines() if line.startswith("| ")]
    for row in ("loss.temperature | 0.05", "matryoshka.dimensions | [64, 128]", "optimizer.lr | 2e-05", "seed | 1"):
        assert f"| {row} |" in rows
    assert "| loss.note | guid. |" in rows and str(tmp_path) not in "".join(rows)
    assert not [row for row in rows if "logging" in row or "lora" in row or "margin" in row]


@pytest.mark.parametrize(
    ("words", "language"),
    [
        (["대한민국의 수도는 서울이다 (Seoul)."], "ko"),
        (["\u1109\u1165\u110b\u116e\u11af"], "ko"),
        (["서울은 수도", "Seoul is the capital of the Republic of Korea"], "multilingual"),
        (["Seoul is the capital."], None),
        (["2026, 3.14!"], None),
        ([], None),
    ],
)
def test_the_language_of_rows_is_seen_by_their_letters(words, language):
    assert language_of(words) == language


def test_data_sets_of_the_hub_are_told_from_local_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows").write_text("")
    names = ["owner/set", "data/rows", "data/rows*.jsonl", "s3://bucket/rows", "hf://datasets/an/other@main/a.jsonl", "owner/set"]
    assert hub_sets(names) == ["owner/set", "an/other"] and hub_sets(None) == [] and hub_sets("owner/set") == ["owner/set"]


def test_leaks_are_told():
    assert "\nTrained on the test: " in HARMLESS and dataclasses.asdict(Base("a"))["hub"] is None


def test_what_limits_the_scores_is_told_and_from_which_score_an_answer_may_be_shown():
    effect = {"queries": 40, "answered": 0.5, "precision": 0.85, "precision_interval": [0.64, 0.95], "recall": 0.425}
    threshold = {"value": 0.8712, "target": 0.9, "rule": "r", "dev": effect, "test": effect}
    written = card("a", "b", "law-dev", "d", "e", queries=40, passages=900, chosen_on_test=True, threshold=threshold)
    assert "Of law-dev, 40 queries among 900 passages, with 95 % intervals over queries (the set that chose" in written
    for line in (
        "law-dev, 40 queries: differences below .10 (ndcg@10) cannot be seen",
        "law-dev has 900 passages only: among many more every score is lower",
        "From which score the first passage may be shown as the answer: score 0.8712 (chosen on dev for 90 % right, from "
        "20 of 40 queries only): 20 of 40 test queries reach it, .850 [.640, .950] of them right.",
    ):
        assert f"\n{line}\n" in written and line.split()[0] not in HARMLESS.split("## Scores")[1]
