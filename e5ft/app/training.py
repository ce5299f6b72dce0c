"""The training job: rows in, a better retriever and the figures that show it out."""

import dataclasses
import logging
import re
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainingArguments

from e5ft import distributed
from e5ft.app import datasets, sweep
from e5ft.app.configuration import lora_settings, model_source, optimizer_class, plain, training_arguments
from e5ft.app.datasets import TrainingData, load_training_data
from e5ft.app.ending import recorded
from e5ft.app.keeping import Scores, keep_record
from e5ft.app.memory import explained
from e5ft.app.mirror import has_wandb_key, wandb_mode, wandb_run, wandb_server
from e5ft.app.objective import objective, side_vectors
from e5ft.app.pacing import planned_dev
from e5ft.app.places import OUTPUTS, below
from e5ft.app.run_folder import RunFolder
from e5ft.app.scoring import evaluator, score_bm25, score_model, score_sizes
from e5ft.app.stopping import StopAtStepEnd, stopping_at_once
from e5ft.app.telling import findings, report
from e5ft.app.tracking import MetricsFile, Progress
from e5ft.data.collator import TrainingRows
from e5ft.data.longest import most_tokens
from e5ft.data.store import TokenStore, tokenize_rows
from e5ft.errors import ConfigurationError, Terminated
from e5ft.files import digest_of, read_json, write_json, write_text
from e5ft.modeling.compact import compact
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.export import export_model
from e5ft.modeling.loading import ModelSource, load_encoder
from e5ft.modeling.lora import add_adapters
from e5ft.retrieval.sets import RetrievalSet
from e5ft.training import checkpoint
from e5ft.training.fitting import fit_micro_batch
from e5ft.training.trainer import ContrastiveTrainer

log = logging.getLogger("e5ft")

# Fields of the `training` group that may differ when a run goes on: they change how a step is computed, or what is said of it,
# not what it holds. The rows of a step, a product of three of them, are compared by themselves.
_FREE = re.compile(
    r"per_device_train_batch_size|gradient_accumulation_steps|activation_checkpointing.*|fit_micro_batch|dataloader_.*|ddp_.*|fsdp.*|"
    r"logging_.*|log_.*|save_total_limit|disable_tqdm|use_cpu|skip_memory_metrics|torch_empty_cache_steps"
)


def train(config: DictConfig, path: Path | None = None, group: str | None = None) -> float | None:
    """Run one training job in its own folder.

    Args:
        config: the composed configuration of train.py.
        path: the folder; None takes the one that Hydra made.
        group: of the run in W&B; None takes the sweep's name, if it is part of one.

    Returns:
        The best dev score, the objective of a sweep; None without evaluation.
    """
    hydra = HydraConfig.get()
    in_sweep = hydra.mode == RunMode.MULTIRUN
    group = hydra.sweep.dir.split("/")[-1] if in_sweep and group is None else group
    whole = not in_sweep and path is None
    path = Path(hydra.runtime.output_dir if path is None else path)
    if config.sweep.resume:
        if not in_sweep:
            raise ConfigurationError("sweep.resume=true: goes on with a multirun (-m); to go on with a run: resume=true")
        before = sweep.state_before(path, hydra.overrides.task)
        if before == "finished":
            report.say(f"job {hydra.job.num}: finished already, {report.relative(path)}")
            return read_json(path / "summary.json")["best"]["score"]
        config.resume = before is not None
    folder = RunFolder(path, resume=config.resume)
    if in_sweep:
        write_text(path / "overrides.yaml", OmegaConf.to_yaml(sweep.lasting(hydra.overrides.task)))
    with (
        recorded(folder, config.name if whole else None),
        stopping_at_once(config.name),
        explained(config),
        wandb_run(plain(config.tracking), plain(config), folder.path, group) as mirror,
    ):
        summary = _Job(config, folder).run(mirror, in_sweep)
    return summary["best"]["score"]


def examine(config: DictConfig) -> None:
    """doctor=true: look at what a run of this configuration would need, and train nothing.

    Raises:
        ConfigurationError: a run could not start.
    """
    findings.examine(
        findings.PlannedRun(
            config,
            build=lambda: _Job(config, SimpleNamespace(path=below(OUTPUTS, config.name))),
            plan=lambda: _data_plan(config),
            wandb=lambda: (wandb_mode(plain(config.tracking)), has_wandb_key(), wandb_server()),
        )
    )


def _data_plan(config: DictConfig) -> SimpleNamespace:
    """What the doctor looks at of the data."""
    data, mix, columns = config.data, datasets.mix_of(config), datasets.columns(config.data)
    file = str(datasets.SAMPLE / "train.jsonl") if data.train_file is None else data.train_file
    one = SimpleNamespace(file=file, columns=columns, split=data.split)
    sources = [SimpleNamespace(file=s.train_file, columns=s.columns, split=s.split) for s in mix.sources] if mix else [one]
    dev = None if data.dev_file is None else SimpleNamespace(file=data.dev_file, columns=columns, split="train")
    keep = [data.keep_dir] if isinstance(data.keep_dir, str) else list(data.keep_dir or ())
    return SimpleNamespace(sources=sources, dev=dev, evaluation_dir=data.eval_dir, keep_dirs=keep, eval_split=data.eval_split)


class _Job:
    """One training run, from configuration to summary; each method is one stage."""

    def __init__(self, config: DictConfig, folder: RunFolder):
        self.config, self.folder = config, folder
        self.arguments: TrainingArguments = training_arguments(config, folder.path)
        self.source: ModelSource = model_source(config)
        self.lora = lora_settings(config)
        self.optimizer = optimizer_class(config)
        self.objective = objective(config, self.source)

    def run(self, mirror: TrainerCallback, in_sweep: bool) -> dict:
        """Every stage in order; returns the summary."""
        config, started = self.config, time.monotonic()
        if not config.resume:  # else only once it is known to be the same training
            self._write_config()
        notes = findings.machine_notes(config)
        encoder = load_encoder(self.source, self.arguments.device)
        self.checkpoint = self._newest_checkpoint()
        data = load_training_data(config)
        tokens = self._tokens(encoder, data)
        row_tokens = self._row_tokens(tokens)
        dev, plan = planned_dev(data.dev, config, self.arguments, encoder, len(data.train.rows), row_tokens)
        data = dataclasses.replace(data, dev=dev)
        report.say(report.opening(self.source, data))
        findings.show(notes)
        scores, keep, pace = self._score_before(encoder, data)
        trainer = self._trainer(encoder, data, tokens, mirror)
        if config.training.fit_micro_batch:
            report.say(self._fit(trainer))
        findings.show(findings.run_facts(trainer, data, tokens, row_tokens, pace, plan))
        self._train(trainer)
        best, encoder = self._best(trainer)
        for measured, retrieval_set in zip([scores, *keep], [data.test, *data.keep], strict=True):
            measured.after, measured.cuts = score_sizes(encoder, retrieval_set, config.evaluation, "after", seed=config.seed)
        summary = self._summary(trainer, data, tokens, scores, best, time.monotonic() - started)
        summary["keep"] = [keep_record(kept, config.seed) for kept in keep]
        if distributed.is_main():
            self._write(encoder, summary, [scores, *keep])
            mirror.send({f"test/{name}": value for name, value in scores.after.metrics.items()})
            mirror.send(
                {f"keep/{kept.after.set_name}/{name}": value for kept in keep for name, value in kept.after.metrics.items()}
            )
            report.say(report.closing(summary, scores, self.folder.path, in_sweep))
        distributed.barrier()
        return summary

    def _tokens(self, encoder: Encoder, data: TrainingData) -> TokenStore:
        text = encoder.spec.text
        texts = text if data.mix is None else [source.text(text) for source in data.mix.sources]
        return tokenize_rows(data.train, encoder.tokenizer, texts, Path(self.config.cache_dir))

    def _row_tokens(self, tokens: TokenStore) -> float:
        """Tokens that a row shows in an epoch at most, on average."""
        positives = 1 if self.objective.positives == "sample" else None
        return float(most_tokens(tokens.tokens, positives=positives, negatives=self.config.data.negatives_per_query).mean())

    def _score_before(self, encoder: Encoder, data: TrainingData) -> tuple[Scores, list[Scores], float]:
        """The base model's and BM25's scores on target and keep sets, and the tokens a second that encoding ran at."""
        sample = list(data.test.passages[:256])
        count, start = sum(map(len, encoder.tokenize(sample, "passage"))), time.monotonic()
        encoder.encode(sample, "passage")
        pace = count / max(time.monotonic() - start, 1e-6)
        return self._score_base(encoder, data.test), [self._score_base(encoder, kept) for kept in data.keep], pace

    def _score_base(self, encoder: Encoder, retrieval_set: RetrievalSet) -> Scores:
        config = self.config
        label = "before (random weights)" if self.source.init == "random" else "before"
        # The base's vectors are kept: the next run from the same model finds them. Random weights' never come again.
        cache = None if self.source.init == "random" else Path(config.cache_dir)
        before = score_model(encoder, retrieval_set, config.evaluation, label, seed=config.seed, cache=cache)
        return Scores(before, score_bm25(retrieval_set, config.evaluation, seed=config.seed))

    def _trainer(self, encoder: Encoder, data: TrainingData, tokens: TokenStore, mirror: TrainerCallback) -> ContrastiveTrainer:
        config, arguments = self.config, self.arguments
        past = None if self.checkpoint is None else read_json(self.checkpoint / checkpoint.STATE)["log_history"]
        callbacks = [MetricsFile(self.folder.path / "metrics.jsonl", past), Progress(self._dev_metric()), mirror]
        if config.training.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(config.training.early_stopping_patience))
        goal = self.objective
        vectors = side_vectors(goal, self.source, encoder, data.train, config)
        if self.lora is not None:  # only now: the base's vectors, of scores and sides, are found again under its own weights
            add_adapters(encoder, self.lora, config.seed)
        if config.training.compact_embedding and self.optimizer[0] is torch.optim.AdamW:
            compact(encoder, tokens.vocabulary())
        rows = TrainingRows(data.train, tokens, config.data.negatives_per_query, positives=goal.positives, vectors=vectors)
        try:
            trainer = ContrastiveTrainer(
                encoder,
                arguments,
                rows,
                goal.loss,
                evaluator(data.dev, config.evaluation) if arguments.eval_strategy != "no" else None,
                negatives=goal.negatives,
                group_by_length=config.training.group_by_length,
                mix=data.mix,
                callbacks=callbacks,
                optimizer_cls_and_kwargs=self.optimizer,
            )
        except (ValueError, ImportError) as error:  # what transformers.Trainer checks only when it is made
            raise ConfigurationError(f"training: {error}") from error
        trainer.remove_callback(PrinterCallback)
        self.folder.check_definition(self._definition(trainer, data, encoder), config.resume)
        if config.resume:
            self._write_config()
        return trainer

    def _write_config(self) -> None:
        if distributed.is_main():
            write_text(self.folder.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain(self.config))))

    def _fit(self, trainer: ContrastiveTrainer) -> str:
        given = self.config.training
        wanted = given.per_device_train_batch_size, given.gradient_accumulation_steps
        # Also for the model card and for messages; what defines the training is the product, which stays.
        found = given.per_device_train_batch_size, given.gradient_accumulation_steps = fit_micro_batch(trainer)
        return f"  micro-batch {found[0]} x {found[1]}, the largest that fits" + (
            "" if found == wanted else f" (given: {wanted[0]} x {wanted[1]}, the same step)"
        )

    def _dev_metric(self) -> str:
        """The dev metric that chooses the checkpoint and that a sweep compares."""
        return (self.arguments.metric_for_best_model or "ndcg@10").removeprefix("eval_")

    def _newest_checkpoint(self) -> Path | None:
        """The checkpoint to go on from, the same on every process; None to begin at the beginning."""
        step = 0
        if self.config.resume and distributed.is_main():
            found, passed = checkpoint.newest(self.folder.path)
            checkpoint.clear(self.folder.path, passed)
            for line in passed:
                log.warning(f"not gone on from {line}; it is kept as damaged-{line.partition(':')[0]}")
            step = 0 if found is None else checkpoint.step_of(found)
            report.say(f"going on from step {step:,}" if step else "there is no checkpoint to go on from: the run begins anew")
        step = int(distributed.gather_arrays(np.array([step]))[0][0])
        self.arguments.eval_on_start = not step and self.arguments.eval_strategy != "no"
        return checkpoint.path_of(self.folder.path, step) if step else None

    def _definition(self, trainer: ContrastiveTrainer, data: TrainingData, encoder: Encoder) -> dict:
        """What makes this training what it is; going on with another is refused."""
        config, arguments = plain(self.config), self.arguments
        rows = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        return {
            "rows": data.train.digest,
            "model": self.source.label,
            "contract": encoder.spec.to_dict(),
            "dropout": [encoder.config.hidden_dropout_prob, encoder.config.attention_probs_dropout_prob],
            "trained token embeddings": len(encoder.backbone.get_input_embeddings().weight),
            "lora": None if self.lora is None else self.lora.to_dict(),
            "loss": config["loss"],
            "optimizer": config["optimizer"],
            "seed": config["seed"],
            "negatives_per_query": config["data"]["negatives_per_query"],
            "queries per step": rows,
            "dev set": digest_of(data.dev.name, len(data.dev.passages), data.dev.qrels),
            "cutoffs": config["evaluation"]["cutoffs"],
            **{f"training.{field}": value for field, value in config["training"].items() if not _FREE.fullmatch(field)},
            **({} if data.mix is None else {"mix": data.mix.definition()}),
        }

    def _train(self, trainer: ContrastiveTrainer) -> None:
        stopping = StopAtStepEnd(lambda: trainer.saving)
        trainer.add_callback(stopping)
        with stopping:
            trainer.train(resume_from_checkpoint=None if self.checkpoint is None else str(self.checkpoint))
        if stopping.stopped:
            raise Terminated(
                f"stopped by {stopping.stopped} at step {trainer.state.global_step}, after saving. "
                f"Go on with: name={self.config.name} resume=true"
            )

    def _best(self, trainer: ContrastiveTrainer) -> tuple[dict, Encoder]:
        """Which weights the run ends with: the best checkpoint's, the last ones, or the base's when nothing beat it."""
        state = trainer.state
        choosing = self.arguments.load_best_model_at_end and state.best_metric is not None
        if choosing:
            best = {"score": state.best_metric, "step": state.best_global_step or 0}
        else:  # the last weights, and what they scored last, if anything was measured
            key = f"eval_{self._dev_metric()}"
            scores = [entry[key] for entry in state.log_history if key in entry]
            best = {"score": scores[-1] if scores else None, "step": state.global_step}
        if choosing and not state.best_global_step:
            return best, load_encoder(self.source, self.arguments.device)
        return best, trainer.trained()

    def _summary(
        self, trainer: ContrastiveTrainer, data: TrainingData, tokens: TokenStore, scores: Scores, best: dict, seconds: float
    ) -> dict:
        runtime = next((entry["train_runtime"] for entry in reversed(trainer.state.log_history) if "train_runtime" in entry), 0.0)
        everything = trainer.tokens_seen * self.arguments.world_size
        return {
            "state": "finished",
            "model": self.source.label,
            "random_weights": self.source.init == "random",
            "data": {"source": data.label, "read": data.read, "rejected": data.rejected, "train_rows": len(data.train.rows)},
            "truncated_share": tokens.truncated / max(tokens.texts, 1),
            "test_set": data.test.name,
            "chosen_on_test": data.chosen_on_test,
            "objective": self._dev_metric(),
            "best": best,
            "training": {
                "steps": trainer.state.global_step,
                "queries_per_step": trainer.sampler.step_rows,
                "seconds": round(runtime, 1),
                "evaluation_seconds": round(trainer.evaluation_seconds, 1),
                "tokens_per_second": round(everything / runtime) if runtime else None,
                "seconds_in_all": round(seconds, 1),
            },
            "scores": scores.record(),
            "differences": scores.differences(self.config.seed),
        }

    def _write(self, encoder: Encoder, summary: dict, measured: list[Scores]) -> None:
        path = self.folder.path
        for scores in measured:
            for name, evaluation in scores.files.items():
                evaluation.save(path / "eval" / evaluation.set_name / name)
        summary["export_difference"] = export_model(
            encoder, path / "model", report.model_card(plain(self.config), summary, encoder)
        )
        write_json(path / "summary.json", summary)
