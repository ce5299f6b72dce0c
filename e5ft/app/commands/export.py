"""The export command: any checkpoint, or a merger of several, trimmed or whole, as a checked folder, and to the hub if asked."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from e5ft.app.commands.data import corpus_texts
from e5ft.app.commands.formats import tell_formats
from e5ft.app.commands.reading import export_target, sets_to_measure
from e5ft.app.runs.script import device_of
from e5ft.app.settings.groups import ExportSettings
from e5ft.app.telling.report import header_line, relative, say, text_format
from e5ft.data.all_texts import all_texts
from e5ft.data.shards import display
from e5ft.errors import E5ftError
from e5ft.exporting import trimming
from e5ft.exporting.card import is_ours, plain_card
from e5ft.exporting.folder import export_model
from e5ft.exporting.origin import base_of
from e5ft.exporting.xlm_roberta import check_xlm_roberta
from e5ft.files import read_json
from e5ft.formatting import inline, markdown_table, portable
from e5ft.modeling.encoder import Encoder, EncoderSpec
from e5ft.modeling.loading import load_description, load_encoder
from e5ft.modeling.merging import check_mergeable, merge
from e5ft.modeling.settings import ModelSource, TextOverrides, model_folder, model_folders
from e5ft.retrieval.comparison import paired_values
from e5ft.retrieval.evaluation import Evaluation, score_model
from e5ft.retrieval.sets import RetrievalSet
from e5ft.retrieval.small_vectors import CARD as BINARY_CARD
from e5ft.retrieval.small_vectors import FILE as CENTRE_FILE
from e5ft.retrieval.small_vectors import Centre, centre_of_texts
from e5ft.retrieval.soups import HOW, figures_against, label, make_soup, soup_rows, soup_table
from e5ft.retrieval.tables import aligned, few_queries, interval_text, main_metric
from e5ft.retrieval.verdict import RULE, choose_alpha, keep_results, result_text
from e5ft.serving.recorded import run_of

_REREAD = "model.text, model.pooling or model.tokenizer"


def export(settings: ExportSettings, sets: list[RetrievalSet] | None = None) -> None:
    """Run one export.

    Args:
        settings: of export.py.
        sets: what mergers are measured on, and what a trimmed vocabulary lacks for; where they have been read already.

    Raises:
        ConfigurationError: no target, or one that is in use.
        ExportError: the folder would not give the model's vectors.
    """
    source, target = settings.model, export_target(settings)
    written_as = {"architecture=xlm_roberta": settings.architecture is not None, "formats=[gguf]": "gguf" in settings.formats}
    for asked in (setting for setting, given in written_as.items() if given):
        config, _, tokenizer = load_description(source)
        check_xlm_roberta(config.model_type, tokenizer, asked)
    corpus = corpus_texts(settings)
    texts = all_texts(settings.trim.files, settings.data.columns, settings.data.reading, "trim.texts")
    if settings.measures and sets is None:
        sets = sets_to_measure(settings)
    if settings.merge.asked:
        encoder, name, record = merge_models(settings, sets)
        records = {"merge.json": record}
        card = plain_card(name, encoder, base_of(source)) + _sections(records)
    else:
        encoder, name = load_encoder(source), source.label
    say(text_format(encoder))
    own_card, own_records = kept(settings, encoder)
    if not settings.merge.asked:
        base, records = base_of(source), own_records
        card = plain_card(base.name, encoder, base) + _sections(records) if own_card is None else own_card
    if settings.trim.asked:
        others = {each.name: chain(each.queries, each.passages) for each in sets}
        found = trimming.trim(encoder, texts, settings.trim.languages, others)
        records[trimming.FILE] = found.record(
            name if settings.merge.asked else portable(name), settings.trim.files, settings.trim.languages
        )
        card += trimming.card_section(records[trimming.FILE])
        say("\n".join(found.lines()))
    if corpus is not None:
        card += BINARY_CARD * (BINARY_CARD not in card)
        name_of_corpus = portable(display(settings.data.corpus_file))
        centre = centre_of_texts(encoder.to(device_of(settings.device)), corpus, name_of_corpus, settings.seed)
        records[CENTRE_FILE] = centre.to_dict()
    difference = export_model(encoder, target, card, records, architecture=settings.architecture, formats=settings.formats)
    say(f"{relative(target)}: {name}, {encoder.dimension} dimensions; encoded again, largest difference {difference:.1e}")
    tell_formats(settings, encoder, target, sets or [])
    if settings.push is not None:
        _push(target, settings.push, settings.private)


def kept(settings: ExportSettings, encoder: Encoder) -> tuple[str | None, dict[str, dict]]:
    """What goes on with weights that a run or an earlier export wrote, as far as it is true of the vectors now; the rest is said.

    Args:
        settings: of export.py.
        encoder: to be written, not yet trimmed.

    Returns:
        The model's own card, None where it has none; and its records: of which models it was merged, from what it was
        trimmed, the centre of its binary vectors.

    Raises:
        ConfigurationError: centre.json is damaged.
    """
    source = settings.model
    if source.path is None or source.init == "random":
        return None, {}
    folder, merges, lost = Path(source.path), settings.merge.asked, []
    records = {file.name: read_json(file) for name in ("merge.json", trimming.FILE) if (file := folder / name).is_file()}
    card = _own_card(folder)
    centre = Centre.load(folder, encoder.dimension) if settings.data.corpus_file is None else None  # else there is a new one
    why = "merging" if merges else _REREAD if (card or centre) and _reads_anew(source, encoder) else ""
    if card is not None and why:
        lost, card = ["the card's scores"], None
    lost += list(records) if merges else []
    if centre is not None and not why and not settings.trim.asked:
        return card, {**records, CENTRE_FILE: centre.to_dict()}
    anew = ""
    if centre is not None:
        lost, anew = [*lost, CENTRE_FILE], f"; data.corpus_file=FILE makes a new {CENTRE_FILE}"
        card = card and card.replace(BINARY_CARD, "")
    if card and settings.trim.asked and trimming.FILE in records:  # trimmed again
        card = card.replace(trimming.card_section(records[trimming.FILE]), "")
    if lost:
        say(header_line("left out", f"{', '.join(lost)}: of the vectors before {why or 'trimming'}{anew}"))
    return card, records


def _reads_anew(source: ModelSource, encoder: Encoder) -> bool:
    """Whether settings make other texts or another pooling of a model than it records."""
    recorded = dataclasses.replace(source, pooling=None, text=TextOverrides())
    return source.tokenizer is not None or load_description(recorded)[1].to_dict() != encoder.spec.to_dict()


def _sections(records: Mapping[str, dict]) -> str:
    """What a plain card says of the records beside the weights."""
    merged, text = records.get("merge.json", {}), ""
    text += _soup_section(merged["soup"]) if "soup" in merged else ""
    text += _card_section(merged) if "base" in merged else ""
    text += trimming.card_section(records[trimming.FILE]) if trimming.FILE in records else ""
    return text + (BINARY_CARD if CENTRE_FILE in records else "")


def _names(sources: Sequence[ModelSource]) -> list[str]:
    """The models' names as they may leave this machine, each another: of a run's model the run's with it."""
    names, seen = [], Counter()
    for source in sources:
        name, run = portable(source.label), run_of(source.path)
        if name != source.label and run is not None:
            name = f"{run.name}/{name}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def merge_models(settings: ExportSettings, sets: list[RetrievalSet]) -> tuple[Encoder, str, dict]:
    """Make a soup of `merge.models` with the `model` group's model, and merge that with `merge.base`, as far as they are named.

    Args:
        settings: of export.py.
        sets: to measure on, the target first.

    Returns:
        The encoder, its name in tables, and the content of merge.json; of several alphas it is the best.

    Raises:
        ConfigurationError: models that do not fit.
    """
    asked, soup, known = settings.merge.alpha, {}, {}
    (name,) = _names([settings.model])
    if settings.merge.models:
        tuned, known[1.0], record = _soup(settings, sets)
        name, soup = label(record["taken"]), {"soup": record}
        if settings.merge.base is None:
            return tuned, name, soup
    else:
        tuned = load_encoder(settings.model)
    # With the fine-tuned model's lengths: a published folder records none, and no weight depends on them.
    base_source = _beside(settings.model, model_folder(settings.merge.base, "merge.base"), tuned.spec)
    base, (base_name,) = load_encoder(base_source), _names([base_source])
    check_mergeable(base, tuned)
    shown_alpha = list(asked) if isinstance(asked, tuple) else float(asked)
    record = {"base": base_name, "fine_tuned": name, "alpha": shown_alpha, "rule": None, **soup}
    if sets:
        alphas = sorted({0.0, 1.0, *map(float, asked if isinstance(asked, tuple) else (asked,))})
        measured = {
            alpha: known.get(alpha) or _measure(settings, merge(base, tuned, alpha), f"alpha {alpha:g}", sets) for alpha in alphas
        }
        record.update(_outcome(measured, settings))
        say("\n" + sweep_table(record))
    return merge(base, tuned, record["alpha"]), f"{name} and {base_name} merged, alpha {record['alpha']:g}", record


def _soup(settings: ExportSettings, sets: list[RetrievalSet]) -> tuple[Encoder, list[Evaluation], dict]:
    """The soup, its evaluations and its part of merge.json; its table is printed."""
    source, how = settings.model, settings.merge.how
    paths, spec = model_folders(settings.merge.models, "merge.models", source.path), load_description(source)[1]
    sources = [source, *(_beside(source, path, spec) for path in paths)]
    names = _names(sources)
    say(header_line("soup", f"{how}, of {len(sources)} models: {', '.join(names)}"))
    members = {name: partial(load_encoder, each) for name, each in zip(names, sources, strict=True)}
    metric = main_metric(settings.evaluation.cutoffs)
    encoder, found, record = make_soup(members, how, sets, partial(_measure, settings), metric, settings.seed)
    if sets:
        record["split"] = settings.data.eval_split
        say(f"\nsplit {record['split']}, 95 % intervals\n\n{soup_table(record)}")
    return encoder, found, record


def sweep_table(record: dict) -> str:
    """The sweep in text: a row an alpha, a column a set, which qualify, which is taken, and by what rule."""
    head, *rows = _rows(record)
    taken = "chosen" if record["rule"] else "given"
    marks = [taken if entry["alpha"] == record["alpha"] else "" for entry in record["alphas"]]
    cells = [[*head, ""], *([*row, mark] for row, mark in zip(rows, marks, strict=True))]
    lines = [f"split {record['split']}, 95 % intervals; an alpha is the fine-tuned model's share", "", aligned(cells), ""]
    for entry in record["alphas"]:
        lost = [f"{name} {result_text(result)}" for name, result in entry["keep"].items() if result["lost"]]
        lines += [f"alpha {entry['alpha']:g} does not qualify: a loss on {', '.join(lost)}"] if lost else []
    for name, figures in record["alphas"][-1]["sets"].items():  # the fine-tuned model against its base
        lines += few_queries(name, figures["queries"], record["metric"], figures["difference_to_base"])
    if record["rule"]:
        lines.append(f"alpha {record['alpha']:g} is chosen: {record['rule']}.")
        if not record["keep"]:
            lines.append("No keep set is named (data.keep_dir): the target alone decided.")
        if record["alpha"] == 0:
            lines.append("Nothing that qualifies is better than the base: the model written is the base, unchanged.")
    return "\n".join(lines)


def _rows(record: dict) -> list[list[str]]:
    """The head and a row an alpha: the figures of every set, and whether it qualifies."""
    metric, names = record["metric"], [record["target"], *record["keep"]]
    rows = [["alpha", *(f"{name} {metric}" for name in names), "qualifies"]]
    for entry in record["alphas"]:
        alpha = {0.0: "0 (base)", 1.0: "1 (fine-tuned)"}.get(entry["alpha"], f"{entry['alpha']:g}")
        sets = [entry["sets"][name] for name in names]
        figures = [interval_text(s["metrics"][metric], s["intervals"][metric]) for s in sets]
        rows.append([alpha, *figures, "yes" if entry["qualifies"] else "no"])
    return rows


def _beside(source: ModelSource, path: str, spec: EncoderSpec) -> ModelSource:
    lengths = {field: getattr(spec.text, field) for field in ("query_max_length", "passage_max_length")}
    text = dataclasses.replace(source.text, **lengths)
    return dataclasses.replace(source.at(path), text=text)


def _measure(settings: ExportSettings, encoder: Encoder, name: str, sets: Sequence[RetrievalSet]) -> list[Evaluation]:
    """Score one model on every set; its vectors are used once, and not kept."""
    encoder = encoder.to(device_of(settings.device))
    evaluations = [score_model(encoder, each, settings.evaluation, name, seed=settings.seed) for each in sets]
    metric = main_metric(settings.evaluation.cutoffs)
    say(f"  {name}: {metric} " + ", ".join(f"{e.metrics[metric]:.3f} on {e.set_name}" for e in evaluations))
    return evaluations


def _outcome(measured: dict[float, list[Evaluation]], settings: ExportSettings) -> dict:
    """The chosen alpha and every figure, for merge.json, the table and the model card."""
    metric = main_metric(settings.evaluation.cutoffs)
    target, *keep = measured[0.0]
    results = {}
    for alpha, (_, *found) in measured.items():
        values = {e.set_name: paired_values(e, base, [metric]) for e, base in zip(found, keep, strict=True)}
        results[alpha] = keep_results(values, seed=settings.seed)
    refuted = {alpha for alpha, kept in results.items() if any(result.lost for result in kept.values())}
    chosen = choose_alpha({alpha: found[0].metrics[metric] for alpha, found in measured.items()}, refuted.__contains__)
    entries = [
        {
            "alpha": alpha,
            "qualifies": alpha not in refuted,
            "keep": {name: dataclasses.asdict(result) for name, result in results[alpha].items()},
            "sets": figures_against(found, measured[0.0], "difference_to_base", metric, settings.seed),
        }
        for alpha, found in measured.items()
    ]
    return {
        **({"alpha": chosen, "rule": RULE} if isinstance(settings.merge.alpha, tuple) else {}),
        "split": settings.data.eval_split,
        "metric": metric,
        "target": target.set_name,
        "keep": [e.set_name for e in keep],
        "alphas": entries,
    }


def _card_section(record: dict) -> str:
    """What a reader of the model card must know: which two models, how much of each, and how that was decided."""
    alpha = record["alpha"]
    text = f"""
## Merged weights

(1 - {alpha:g}) x base + {alpha:g} x fine-tuned, tensor by tensor (WiSE-FT, arXiv:2109.01903; LM-Cocktail, arXiv:2311.13534).

- base: {inline(record["base"])}
- fine-tuned: {inline(record["fine_tuned"])}
- alpha: {alpha:g}, {"chosen by a rule: " + record["rule"] if record["rule"] else "given"}
"""
    return text + (_scores(_rows(record), record["split"]) if "alphas" in record else "")


def _soup_section(soup: dict) -> str:
    """What a reader of the model card must know: which models are in it, how they became one, and the scores."""
    lines = [f"- {inline(name)}{'' if name in soup['taken'] else ' (not taken)'}" for name in soup["members"]]
    text = f"\n## Soup\n\nSeveral models as one: {HOW[soup['how']]}.\n\n" + "\n".join(lines) + "\n"
    text += f"\nTaken: {soup['rule']}.\n" if soup["rule"] else ""
    return text + (_scores(soup_rows(soup), soup["split"]) if "sets" in soup else "")


def _scores(rows: list[list[str]], split: str) -> str:
    """A table's rows in Markdown, under a line that says what is in it."""
    return f"\nThe target first, then the keep sets, split {inline(split)}, 95 % intervals:\n\n{markdown_table(rows)}\n"


def _own_card(folder: Path) -> str | None:
    """The card that a run or an export wrote of these weights: in their folder, or in the run whose best checkpoint they are."""
    run, file = folder.resolve().parent, folder / "README.md"
    best = read_json(run / "summary.json").get("best", {}) if (run / "summary.json").is_file() else {}
    if folder.name == f"checkpoint-{best.get('step')}" and best.get("alpha", 1) == 1:  # else the run's model is a mixture
        file = run / "model/README.md"
    card = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    return card if is_ours(card) else None


def _push(folder: Path, name: str, private: bool) -> None:
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        url = api.upload_folder(folder_path=folder, repo_id=name, commit_message="Upload with e5ft")
    except Exception as error:  # the client raises many kinds, and the folder is safe on disk whichever it is
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise E5ftError(
            f"push={name}: not uploaded ({first}); {folder} is complete. Log in with `hf auth login` and try again"
        ) from error
    say(f"uploaded: {url}")
