"""Runs a recipe: makes each artifact that the store does not have, in order. After a kill it resumes from the drafts.

    plan ──► for each step: in the store? skip : lease draft → stage.run(Work) → commit → artifact ──► record

The first stage that needs Ray starts it, so a run with no artifact to make starts no process. On a cluster tasks first
bring and hash what the sources name (transfers.py).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field

from cluster.errors import ClusterError, disk_full
from cluster.session import Session, log_location
from pipelines.errors import UserError
from pipelines.evaluator import Evaluator
from pipelines.recipe.reader import Recipe
from pipelines.run.meter import Meter
from pipelines.run.plan import Step, descendants, plan, step_code
from pipelines.run.progress import RunLog
from pipelines.run.transfers import hash_files, prepare, putting
from pipelines.stage import Facts, Work
from pipelines.store.artifacts import NO_SPACE, Artifact, Draft, Manifest, Store
from pipelines.store.facts import rows_used
from pipelines.store.provenance import machine, packages
from pipelines.store.runs import RunRecord, StageRecord


@dataclass
class Walk:
    """One run of one recipe; owns the evaluator that its stages share."""

    recipe: Recipe
    store: Store
    session: Session
    log: RunLog = field(default_factory=RunLog)
    wait: bool = True  # for a draft that another run holds; otherwise ClusterError
    records_folder: str = "runs"  # folder of the store for the record of this run
    measured_pid: int = field(default_factory=os.getpid)  # root of the process tree whose memory counts for a stage

    def run(
        self,
        *,
        until: str | None = None,
        force: str | None = None,
        from_: str | None = None,
        only: Collection[str] | None = None,
    ) -> RunRecord:
        """Makes every missing artifact; with `only`, those with these fingerprints.

        until: the last stage; force: a stage to remake with its descendants; from_: the first of the stages to remake.
        Raises UserError or ClusterError; the record has the outcome."""
        recipe = self.recipe
        with self._explained():
            prepare(recipe, self.store.digests, self.session, self.log, until)
            steps = plan(recipe, self.store, until=until, warn=self.log.warn)
            if force is not None or from_ is not None:
                self._set_aside(steps, force, from_, until)
                steps = plan(recipe, self.store, until=until, warn=self.log.warn)
            if only is not None:
                steps = [step for step in steps if step.fingerprint in only]
            record = RunRecord.begin(
                self.store, recipe=recipe.name, path=recipe.path, seed=recipe.seed, folder=self.records_folder
            )
            self.evaluator = Evaluator(self.session)
            with self._recorded(record):
                for step in steps:
                    artifact = step.artifact or self._make(step)
                    self._record(record, step, artifact, made=step.artifact is None)
        return record

    def _set_aside(self, steps: list[Step], force: str | None, from_: str | None, until: str | None) -> None:
        """Sets aside the artifacts of the stages that --force and --from name, and of their descendants."""
        stages = [step for step in steps if not step.evaluates]
        names = [step.name for step in stages]
        for name in (force, from_):
            if name is not None and self.recipe.entry(name).name not in names:
                raise UserError(f"{name}: comes after --until {until}, so it cannot be made again in this run")
        roots = {step.fingerprint for step in steps if step.entry.name == force}
        if from_ is not None:
            roots |= {step.fingerprint for step in stages[names.index(from_) :]}
        fingerprints = descendants(steps, roots)
        for step in steps:
            if step.fingerprint in fingerprints:
                self._remove(step)

    def _remove(self, step: Step) -> None:
        """Sets a step's artifact aside and drops its draft, once no other run holds it."""
        draft = self.store.draft(step.fingerprint, wait=self.wait, to_drop=True, on_message=self.log.warn)
        artifact = self.store.find(step.entry.stage.makes, step.fingerprint, self.log.warn)
        if artifact is not None:
            self.log.note(f"{step.name}: set aside in {self.store.set_aside(artifact)}")
        self.store.drop(draft)

    def _make(self, step: Step) -> Artifact:
        """Runs a stage in its draft and commits its artifact."""
        put = putting(self.session)
        draft = self.store.draft(step.fingerprint, wait=self.wait, on_message=self.log.warn, put=put)
        try:
            existing = self.store.find(step.entry.stage.makes, step.fingerprint, self.log.warn)
            if existing is not None:  # another run made it while this one waited
                self.store.drop(draft)
                return existing
            facts = self._attempt(step, draft)
            self._hash(draft)
            artifact = self.store.commit(draft, self._manifest(step, facts))
            if story := rows_used(facts):
                rejected = ", ".join(name for name in artifact.manifest.files if name.startswith("rejected."))
                self.log.note(f"{story} ({rejected})" if rejected and "not used" in story else story)
        except BaseException:
            with suppress(OSError, ClusterError, UserError):  # a server that fails: the error itself matters more
                draft.release()
            raise
        self.store.digests.moved(draft.out, artifact.path)
        self.log.end(f"done in {facts['run/wall_s']:.1f} s")
        return artifact

    def _hash(self, draft: Draft) -> None:
        """Lets tasks hash the files of the artifact, on a cluster that is connected."""
        if self.session.started and not self.session.local:
            files = ((path, False) for path in draft.out.rglob("*") if path.is_file())
            hash_files(files, self.store.digests, self.session, self.log)

    def _attempt(self, step: Step, draft: Draft) -> Facts:
        """Runs a stage and measures it. Returns its facts, with the cost of all attempts."""
        self.log.begin(step.name, step.fingerprint)
        meter = Meter(draft.folder("attempts"), self.measured_pid).start()
        try:
            facts = step.entry.stage.run(self._work(step, draft))
        except BaseException:
            with suppress(OSError):  # a full disk: the stage's error matters more than the meter's last second
                meter.stop()
            raise
        return {**facts, **meter.stop()}

    def _work(self, step: Step, draft: Draft) -> Work:
        inputs = {}
        for kind, fingerprint in step.parents.items():
            artifact = self.store.by_fingerprint(fingerprint)
            if artifact is None:
                raise UserError(
                    f"{step.name}: its {kind} {fingerprint} vanished from the store; run again to remake it"
                )
            inputs[kind] = artifact
        uses_evaluator = step.entry.stage.uses_evaluator
        if step.entry.stage.makes == "trial":
            self.evaluator.close()  # the trial's server needs the same memory
        elif not uses_evaluator:
            self.evaluator.rest()  # a stage may need the memory that it holds
        return Work(
            name=step.entry.name,
            options=step.entry.options,
            cluster=step.entry.cluster,
            seed=self.recipe.seed,
            inputs=inputs,
            sources=step.entry.sources,
            references=step.entry.references,
            draft=draft,
            progress=self.log,
            session=self.session,
            cache=self.store.root / "cache",
            evaluator=self.evaluator if uses_evaluator else None,
            base=next((e.options.model_dump()["model"] for e in self.recipe.entries if e.stage.kind == "base"), None),
        )

    def _manifest(self, step: Step, facts: Facts) -> Manifest:
        return Manifest(
            kind=step.entry.stage.makes,
            fingerprint=step.fingerprint,
            stage=step.entry.stage.kind,
            name=step.entry.name,
            stage_version=step.entry.stage.version,
            seed=self.recipe.seed,
            options=step.entry.options.identity(),
            sources=dict(step.sources),
            parents=dict(step.parents),
            code=step_code(step.entry.stage),
            packages=packages(),
            machine=machine(),
            facts=facts,
        )

    def _record(self, record: RunRecord, step: Step, artifact: Artifact, *, made: bool) -> None:
        """Adds a step's artifact to the record of the run."""
        if not made:
            self.store.drop_leftover(step.fingerprint)
            self.log.note(f"{step.name:<20} {step.fingerprint}  made already")
            if step.made_by_other_code:
                self.log.warn(
                    f"{step.name} was made by other code than the current; remake it with --force {step.entry.name}"
                )
        if step.evaluates:
            record.stages[step.evaluates].evaluation = artifact.fingerprint
        else:
            entry = step.entry
            record.stages[entry.name] = StageRecord(
                kind=entry.stage.kind, makes=entry.stage.makes, fingerprint=artifact.fingerprint, made=made
            )
        record.made += made
        if self.session.started and not record.nodes:
            record.nodes = [asdict(node) for node in self.session.nodes()]
        record.save(self.store)

    @contextmanager
    def _recorded(self, record: RunRecord) -> Iterator[None]:
        """Records the outcome of the run."""
        try:
            yield
        except BaseException as error:
            self.log.end()
            outcome = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            # A full disk, or a server that fails: the error itself matters more than its record.
            with suppress(OSError, ClusterError, UserError):
                record.end(self.store, outcome, str(explain(error, self.store)))
            raise
        else:
            record.end(self.store, "done")
        finally:
            self.evaluator.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Replaces errors of libraries by a UserError or ClusterError where there is one; see explain."""
        try:
            yield
        except Exception as error:
            explained = explain(error, self.store)
            if explained is error:
                raise
            raise explained from error


# Classes of ray.exceptions that Ray raises when it has lost a node or a process. Names, so that Ray is not imported.
RAY_LOSSES = ("LocalRayletDiedError", "NodeDiedError", "RaySystemError", "WorkerCrashedError", "OwnerDiedError",
              "ObjectLostError", "ActorDiedError", "ActorUnavailableError", "OutOfMemoryError")  # fmt: skip


def explain(error: BaseException, store: Store) -> BaseException:
    """The UserError or ClusterError inside an error of Ray or of a library; `error` itself if there is none."""
    for inner in _causes(error):
        if isinstance(inner, UserError | ClusterError):
            return _unwrapped(inner)
        if disk_full(inner):
            return ClusterError(NO_SPACE.format(store.root))
    for inner in _causes(error):
        if type(inner).__name__ in RAY_LOSSES and type(inner).__module__.startswith("ray."):
            lines = str(inner).strip().splitlines()
            first_line = lines[0] if lines else ""
            return ClusterError(
                f"the cluster lost a node or a process ({type(inner).__name__}: {first_line}); expected all to run to "
                f"the end. Run the same command: finished stages are kept. Logs: {log_location()}"
            )
    return error


def _unwrapped(error: UserError | ClusterError) -> UserError | ClusterError:
    """The plain error: Ray raises a class that derives from its own error and ours, with a long traceback as text."""
    kind = UserError if isinstance(error, UserError) else ClusterError
    if type(error) is kind:
        return error
    cause = getattr(error, "cause", None)
    return kind(*cause.args) if isinstance(cause, kind) else kind(str(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and, breadth first, every error that caused it or that it wraps."""
    visited: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or id(current) in visited:
            continue
        visited.add(id(current))
        yield current
        queue += [getattr(current, "cause", None), current.__cause__, current.__context__]
