"""Soups: several models of one base as one, of all of them or of those that a target's score lets in, and what came of it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from e5ft.modeling.encoder import Encoder
from e5ft.modeling.merging import soup
from e5ft.retrieval.comparison import paired_differences
from e5ft.retrieval.evaluation import Evaluation
from e5ft.retrieval.sets import RetrievalSet
from e5ft.retrieval.tables import aligned, difference_text, few_queries, interval_text, short_number

GREEDY = (
    "in descending order of their own score on the target a model is kept if the soup's score there does not fall by it; "
    "of equal ones the first named comes first"
)
HOW = {
    "uniform": "the mean of their weights (model soups, arXiv:2203.05482)",
    "greedy": "the mean of the weights of those that are taken (greedy model soup, arXiv:2203.05482)",
    "slerp": "their weights averaged along arcs, tensor by tensor, in this order (slerp)",
}


def make_soup(
    members: Mapping[str, Callable[[], Encoder]],
    how: str,
    sets: Sequence[RetrievalSet] = (),
    measure: Callable[[Encoder, str, Sequence[RetrievalSet]], list[Evaluation]] | None = None,
    metric: str = "ndcg@10",
    seed: int = 0,
) -> tuple[Encoder, list[Evaluation], dict]:
    """Several models into one. At most three are held at a time.

    Args:
        members: name -> what loads the model; at least two.
        how: a key of `HOW`.
        sets: to measure on, the target first; empty: nothing is measured, which "greedy" cannot do without.
        measure: from an encoder, its label and sets to its evaluations.
        metric: by which "greedy" chooses.
        seed: of the intervals of paired differences.

    Returns:
        The soup; its evaluations; and a record for JSON: `how`, `rule`, `members` in the order given, `taken` in the order
        in which they were averaged and, where it was measured, what `_scores` gives.

    Raises:
        ConfigurationError: two models do not belong together; told before anything is measured.

    Source: Wortsman et al. 2022 (Model soups), arXiv:2203.05482.
    """

    def made(names: Sequence[str]) -> Encoder:
        return soup(((name, members[name]()) for name in names), spherical=how == "slerp")

    taken, tried = tuple(members), {}
    encoder = made(taken)
    found: dict[tuple[str, ...], list[Evaluation]] = {}

    def score_of(names: Sequence[str]) -> float:
        found[tuple(names)] = measure(made(names), label(names), sets[:1])
        return found[tuple(names)][0].metrics[metric]

    if sets:
        found = {(name,): measure(members[name](), name, sets) for name in members}
    if how == "greedy":
        encoder = None  # its memory is wanted
        kept, tried = greedy_soup({name: found[name,][0].metrics[metric] for name in members}, score_of)
        taken, encoder = tuple(kept), made(kept)
    record = {"how": how, "rule": GREEDY if how == "greedy" else None, "members": list(members), "taken": list(taken)}
    if not sets:
        return encoder, [], record
    evaluations = found.get(taken, [])
    if rest := sets[len(evaluations) :]:
        evaluations = evaluations + measure(encoder, label(taken), rest)
    own = {name: found[name,] for name in members}
    return encoder, evaluations, {**record, "with_it": tried, **_scores(own, evaluations, metric, seed)}


def greedy_soup(scores: Mapping[str, float], score_of: Callable[[list[str]], float]) -> tuple[list[str], dict[str, float]]:
    """Apply `GREEDY`.

    Args:
        scores: model -> its own score on the target; at least one.
        score_of: from the names of models to the score of their soup there.

    Returns:
        The kept models, the best first; and of each model but the best the score of the soup that was tried with it.

    Source: Wortsman et al. 2022 (Model soups), arXiv:2203.05482, recipe 1.
    """
    best, *others = sorted(scores, key=scores.__getitem__, reverse=True)  # stable: equal ones keep their order
    kept, score, tried = [best], scores[best], {}
    for name in others:
        tried[name] = score_of([*kept, name])
        if tried[name] >= score:
            kept, score = [*kept, name], tried[name]
    return kept, tried


def label(names: Sequence[str]) -> str:
    """How tables name a soup: by its only model, or by how many there are."""
    return names[0] if len(names) == 1 else f"soup of {len(names)} models"


def soup_rows(record: Mapping) -> list[list[str]]:
    """The head, a row a model and one of the soup: the main metric on every set, the target first, and what is taken."""
    metric, sets = record["metric"], [record["target"], *record["keep"]]
    rows = [["model", *(f"{name} {metric}" for name in sets), "taken"]]
    for name, found in [*record["own"].items(), (f"= {label(record['taken'])}", record["sets"])]:
        figures = [interval_text(found[each]["metrics"][metric], found[each]["intervals"][metric]) for each in sets]
        taken = "" if found is record["sets"] else "yes" if name in record["taken"] else "no"
        if name in record["with_it"]:
            taken += f", {short_number(record['with_it'][name])} with it"
        rows.append([name, *figures, taken])
    return rows


def soup_table(record: Mapping) -> str:
    """`soup_rows` in text, the soup against the best of its models on every set, and the rule."""
    lines = [aligned(soup_rows(record)), ""]
    for name, figures in record["sets"].items() if len(record["taken"]) > 1 else ():
        change = figures["difference_to_best"]
        lines.append(f"{name}: soup less {record['best']} {difference_text(change['mean'], change['low'], change['high'])}")
        lines += few_queries(name, figures["queries"], record["metric"], change)
    if record["rule"]:
        lines.append(f"Taken: {record['rule']}.")
    if len(record["taken"]) == 1:
        lines.append("No other model is kept: this one is taken, unchanged.")
    return "\n".join(lines)


def _scores(own: Mapping[str, list[Evaluation]], ours: list[Evaluation], metric: str, seed: int) -> dict:
    """The names of metric and sets; set -> figures of the soup; model -> set -> figures; and the model best on the target.

    The soup's figures have the paired difference to that model.
    """
    best = max(own, key=lambda name: own[name][0].metrics[metric])
    sets = figures_against(ours, own[best], "difference_to_best", metric, seed)
    target, *keep = sets
    figures = {name: _figures(found) for name, found in own.items()}
    return {"metric": metric, "target": target, "keep": keep, "best": best, "sets": sets, "own": figures}


def figures_against(ours: Sequence[Evaluation], theirs: Sequence[Evaluation], field: str, metric: str, seed: int) -> dict:
    """Set -> queries, passages, metrics and intervals of ours, and in a field the paired difference to theirs, for JSON."""
    figures = _figures(ours)
    for a, b in zip(ours, theirs, strict=True):
        figures[a.set_name][field] = dataclasses.asdict(paired_differences(a, b, [metric], seed=seed)[metric])
    return figures


def _figures(found: Sequence[Evaluation]) -> dict[str, dict]:
    names = ("passages", "metrics", "intervals")
    return {e.set_name: {"queries": len(e.scored), **{name: getattr(e, name) for name in names}} for e in found}
