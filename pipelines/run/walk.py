"""Walks a recipe: makes what the store does not hold, in order; killed and run again, it goes on where it stood.

    plan ──► for each step: found? skip : lease draft → stage.run(Work) → commit → artifact ──► record

Ray is started by the first stage that asks for it, so a recipe that is made already starts nothing.
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
from pipelines.run.progress import Story
from pipelines.stage import Facts, Work
from pipelines.store.artifacts import NO_SPACE, Artifact, Draft, Manifest, Store
from pipelines.store.provenance import machine, packages
from pipelines.store.runs import RunRecord, StageRecord


@dataclass
class Walk:
    """One run of one recipe, and what lives as long as it: the session and the evaluator."""

    recipe: Recipe
    store: Store
    session: Session
    story: Story = field(default_factory=Story)
    wait: bool = True  # for a draft that another run holds
    records: str = "runs"  # the store's folder for the record of this run
    measured: int = field(default_factory=os.getpid)  # the process whose tree's memory is the cost of a stage

    def run(
        self,
        *,
        until: str | None = None,
        force: str | None = None,
        from_: str | None = None,
        only: Collection[str] | None = None,
    ) -> RunRecord:
        """Makes every step that is missing, or of the steps with the fingerprints in `only`.

        Raises UserError or ClusterError; the record says how it ended."""
        with self._explained():
            steps = plan(self.recipe, self.store, until=until, warn=self.story.warn)
            steps = self._forced(steps, force, from_, until)
            recipe = self.recipe
            record = RunRecord.begin(
                self.store, recipe=recipe.name, path=recipe.path, seed=recipe.seed, folder=self.records
            )
            self.evaluator = Evaluator(self.session)
            with self._recorded(record):
                for step in steps if only is None else [step for step in steps if step.fingerprint in only]:
                    artifact = step.artifact or self._make(step)
                    self._note(record, step, artifact, made=step.artifact is None)
        return record

    def _forced(self, steps: list[Step], force: str | None, from_: str | None, until: str | None) -> list[Step]:
        """Sets aside what --force and --from name and all that stands on it, then plans again."""
        if force is None and from_ is None:
            return steps
        names = [step.entry.name for step in steps if not step.evaluates]
        for name in (force, from_):
            if name is not None and self.recipe.entry(name).name not in names:
                raise UserError(f"{name}: comes after --until {until}; there is nothing of it to make again")
        roots = {s.fingerprint for s in steps if s.entry.name == force}
        if from_ is not None:
            roots |= {s.fingerprint for s in steps if not s.evaluates and s.entry.name in names[names.index(from_) :]}
        gone = descendants(steps, roots)
        for step in steps:
            if step.fingerprint in gone:
                self._forget(step)
        return plan(self.recipe, self.store, until=until, warn=self.story.warn)

    def _forget(self, step: Step) -> None:
        """Sets a step's artifact aside and drops its draft, both only once no other run works on them."""
        draft = self.store.draft(step.fingerprint, wait=self.wait, log=self.story.warn)
        artifact = self.store.find(step.entry.stage.makes, step.fingerprint, self.story.warn)
        if artifact is not None:
            self.story.note(f"{step.name}: set aside in {self.store.set_aside(artifact)}")
        self.store.drop(draft)

    def _make(self, step: Step) -> Artifact:
        """One stage, from its draft to its artifact."""
        draft = self.store.draft(step.fingerprint, wait=self.wait, log=self.story.warn)
        try:
            made = self.store.find(step.entry.stage.makes, step.fingerprint, self.story.warn)
            if made is not None:  # another run made it while we waited
                self.store.drop(draft)
                return made
            facts = self._attempt(step, draft)
            artifact = self.store.commit(draft, self._manifest(step, facts))
        except BaseException:
            draft.release()
            raise
        self.story.end(f"done in {facts['run/wall_s']:.1f} s")
        return artifact

    def _attempt(self, step: Step, draft: Draft) -> Facts:
        """Runs a stage, measured. Returns its facts, with those of all attempts at it."""
        self.story.begin(step.name, step.fingerprint)
        meter = Meter(draft.folder("attempts"), draft.beat, self.measured).start()
        try:
            facts = step.entry.stage.run(self._work(step, draft))
        except BaseException:
            with suppress(OSError):  # a full disk: what the stage met matters more than the last second of its record
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
        asks = step.entry.stage.asks
        if step.entry.stage.makes == "trial":
            self.evaluator.close()  # a server takes as much memory as it does
        elif not asks:
            self.evaluator.rest()  # it works only while no stage works
        return Work(
            name=step.entry.name,
            options=step.entry.options,
            cluster=step.entry.cluster,
            seed=self.recipe.seed,
            inputs=inputs,
            sources=step.entry.sources,
            draft=draft,
            progress=self.story,
            session=self.session,
            cache=self.store.root / "cache",
            evaluator=self.evaluator if asks else None,
        )

    def _manifest(self, step: Step, facts) -> Manifest:
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

    def _note(self, record: RunRecord, step: Step, artifact: Artifact, *, made: bool) -> None:
        if not made:
            self.store.drop_leftover(step.fingerprint)
            self.story.note(f"{step.name:<20} {step.fingerprint}  made already")
            if step.made_by_other_code:
                self.story.warn(
                    f"{step.name} was made by other code than is here now; remake it with --force {step.entry.name}"
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
        """Writes down how the run ends."""
        try:
            yield
        except BaseException as error:
            self.story.end()
            outcome = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(OSError):  # a full disk: the error itself matters more than its record
                record.end(self.store, outcome, str(explain(error, self.store)))
            raise
        else:
            record.end(self.store, "done")
        finally:
            self.evaluator.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what libraries raise into what people can act on."""
        try:
            yield
        except Exception as error:
            known = explain(error, self.store)
            if known is error:
                raise
            raise known from error


# What Ray raises when a node or a process of its own is gone, by name: this module never loads Ray.
LOST = ("LocalRayletDiedError", "NodeDiedError", "RaySystemError", "WorkerCrashedError", "OwnerDiedError",
        "ObjectLostError", "ActorDiedError", "ActorUnavailableError", "OutOfMemoryError")  # fmt: skip


def explain(error: BaseException, store: Store) -> BaseException:
    """The error a user can act on inside what Ray or a library wrapped it in; `error` itself if there is none."""
    for inner in _chain(error):
        if isinstance(inner, UserError | ClusterError):
            # Ray hands back a class that is both its own error and ours; ours alone says it plainly.
            kind = UserError if isinstance(inner, UserError) else ClusterError
            plain = getattr(inner, "cause", inner)
            return inner if type(inner) is kind else kind(str(plain if isinstance(plain, kind) else inner))
        if disk_full(inner):
            return ClusterError(NO_SPACE.format(store.root))
    for inner in _chain(error):
        if type(inner).__name__ in LOST and type(inner).__module__.startswith("ray."):
            first = (str(inner).strip().splitlines() or [""])[0]
            return ClusterError(
                f"the cluster lost a part of itself ({type(inner).__name__}: {first}); expected its nodes to live to "
                f"the end. Run the same command: what is made stays made. Logs: {log_location()}"
            )
    return error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        found = waiting.pop(0)
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [getattr(found, "cause", None), found.__cause__, found.__context__]
