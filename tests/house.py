"""The rules of the house, as functions on syntax trees: what may import what, how large a thing may grow, its names.

    source files ──► Module(path, tree, imports) ──rule──► offences, "file:line: what is wrong"

Rules look at the syntax tree and run nothing. tests/test_house.py applies each to this tree, and to snippets that
break it. Tests may open any library's door, to compare with it; other rules hold for them too.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

OURS = ("cluster", "pipelines", "serve", "tests")

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "base", "manager"}

# What serve may import of pipelines.
SERVE_MAY_IMPORT = ("store", "stage", "options", "errors", "data", "metrics", "inference")
# The wings, top to bottom. A module imports from its own wing and from lower ones: never upwards, never sideways.
LAYERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "pipelines": (
        ("__main__",), ("cli",), ("verbs", "exit_codes"), ("report",), ("sweep",), ("run", "stages"), ("planning",),
        ("training", "recipe", "writers"), ("parallel",),
        ("engines", "dialogue_options", "dialogue_rows", "chat_rows", "blocks"),
        ("stage",), ("evaluator",),
        ("store",),
        # the crafts: what stages are made of
        ("metrics", "rollout"), ("learning",), ("inference",),
        ("data.guard",), ("data.dialogues", "data.images"),
        ("data.corpus", "data.tokens", "data.knowledge"), ("data.sources",), ("data.text",),
        ("console",), ("options", "user_functions", "objects"), ("errors", "processor"),
    ),
    "serve": (
        ("verbs",), ("trial",), ("hosting",), ("client",), ("gateway",), ("settings",), ("options", "guard_families"),
    ),
}  # fmt: skip
WITHOUT_CODE = ("pipelines", "pipelines.data", "serve")  # packages that hold a docstring alone
CRAFTS = ("pipelines.data", "pipelines.inference", "pipelines.learning", "pipelines.rollout", "pipelines.metrics")
DOORS: dict[str, str | tuple[str, ...]] = {  # a heavy library and the one place that imports it
    "deepspeed": "pipelines/learning/engine.py",
    "peft": ("pipelines/learning/adapters.py", "pipelines/learning/guard_encoder.py"),
    "vllm": ("pipelines/inference/sampler.py", "serve/hosting/engine_process.py"),
    "openai": "pipelines/writers/endpoint.py",
    "ray.train": "cluster/workers.py",
    "ray.tune": "pipelines/sweep/",
    "ray.data": ("pipelines/stages/", "pipelines/parallel.py"),
    "ray.serve": "serve/hosting/",
}

# Written in two pieces, so that this file is not its own offence.
TRACES = {
    "a path of one machine": re.compile(r"(?<![\w.~-])/(wo" + r"rk|ro" + r"ot)/"),
    "a package registry's host": re.compile(r"(py" + r"pi|python" + r"hosted|npm" + r"js|deb\.deb" + r"ian)\.org"),
}


@dataclass(frozen=True)
class Import:
    target: str  # dotted; for `from a import b` it is a.b
    line: int
    binds: str  # the name it gives to the module that imports
    top: bool  # done when the module is imported
    typing: bool  # inside `if TYPE_CHECKING`: never done

    def within(self, *packages: str) -> bool:
        return any(self.target == package or self.target.startswith(package + ".") for package in packages)


@dataclass(frozen=True)
class Module:
    path: str
    source: str

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def stage(self) -> str | None:
        """The stage this file is or belongs to."""
        return stage_of(self.name)

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.path)

    @cached_property
    def imports(self) -> list[Import]:
        return list(self._imports(self.tree, top=True, typing=False))

    def within(self, *packages: str) -> bool:
        return any(self.name == package or self.name.startswith(package + ".") for package in packages)

    def at(self, line: int, text: str) -> str:
        return f"{self.path}:{line}: {text}"

    def _imports(self, node: ast.AST, *, top: bool, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, alias.asname or alias.name.split(".")[0], top, typing)
        elif isinstance(node, ast.ImportFrom):
            origin = self._origin(node)
            for alias in node.names:
                yield Import(f"{origin}.{alias.name}", node.lineno, alias.asname or alias.name, top, typing)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield Import(str(node.args[0].value), node.lineno, "", top, typing)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.body:
                yield from self._imports(child, top=top, typing=True)
            for child in node.orelse:
                yield from self._imports(child, top=top, typing=typing)
        else:
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from self._imports(child, top=top and not later, typing=typing)

    def _origin(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        here = self.name.split(".") if self.path.endswith("__init__.py") else self.name.split(".")[:-1]
        return ".".join([*here[: len(here) - node.level + 1], *filter(None, [node.module])])


Rule = Callable[[list[Module]], Iterator[str]]


def stage_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[2] if parts[:2] == ["pipelines", "stages"] and len(parts) > 2 else None


# ---- the rules -------------------------------------------------------------------------------------------------------


def direction(modules: list[Module]) -> Iterator[str]:
    """cluster ← pipelines ← serve: cluster imports nothing of ours, only pipelines/cli.py imports serve, serve imports
    cluster and pipelines' store, stage, crafts and what they stand on; nothing but tests imports tests."""
    may = tuple(f"pipelines.{name}" for name in SERVE_MAY_IMPORT)
    for module in modules:
        package = module.name.split(".")[0]
        forbidden = {"cluster": ("pipelines", "serve", "tests"), "pipelines": ("serve", "tests"), "serve": ("tests",)}
        for one in module.imports:
            wrong = one.within(*forbidden.get(package, ())) and module.path != "pipelines/cli.py"
            if package == "serve" and one.within("pipelines"):
                wrong = not one.within(*may)
            if wrong:
                yield module.at(one.line, f"{package} imports {one.target}")


def layer_of(name: str) -> tuple[int, str] | None:
    """The layer of a module, 0 the highest, and its wing; None where the table has no place for it."""
    package = name.split(".")[0]
    for number, wings in enumerate(LAYERS.get(package, ())):
        for wing in wings:
            if f"{name}.".startswith(f"{package}.{wing}."):
                return number, wing
    return None


def layers(modules: list[Module]) -> Iterator[str]:
    """Wings import downwards only, as the table LAYERS says; every module has a place in it."""
    for module in modules:
        package, here = module.name.split(".")[0], layer_of(module.name)
        if package not in LAYERS or module.name in WITHOUT_CODE:
            continue
        if here is None:
            yield module.at(1, "is in no wing of the table LAYERS")
            continue
        for one in module.imports:
            there = layer_of(one.target) if one.within(package) else None
            if there is not None and there[1] != here[1] and there[0] <= here[0]:
                yield module.at(one.line, f"{here[1]} imports {one.target}, which is not below it")


def stages_apart(modules: list[Module]) -> Iterator[str]:
    """Stages never import each other: artifacts are all that passes between them."""
    for module in modules:
        for one in module.imports if module.stage else []:
            if one.within("pipelines.stages") and stage_of(one.target) != module.stage:
                yield module.at(one.line, f"stage {module.stage} imports {one.target}")


def crafts_without_ray(modules: list[Module]) -> Iterator[str]:
    """Crafts (data, inference, learning, rollout, metrics) work without Ray and cluster."""
    for module in modules:
        for one in module.imports if module.within(*CRAFTS) else []:
            if one.within("ray", "cluster"):
                yield module.at(one.line, f"a craft imports {one.target}")


def one_door_a_library(modules: list[Module]) -> Iterator[str]:
    """Each heavy library is imported in one place, inside functions as well."""
    for module in modules:
        for one in module.imports if not module.within("tests") else []:
            for library, door in DOORS.items():
                if one.within(library) and not module.path.startswith(door):
                    yield module.at(one.line, f"imports {one.target}; its door is {door}")


def no_shadows(modules: list[Module]) -> Iterator[str]:
    """`import ray.serve`, never `from ray import serve`: no import gives another's module the name of one of ours."""
    for module in modules:
        for one in module.imports:
            shadows = one.binds in OURS and not one.within(*OURS)
            renamed = one.target in ("ray.train", "ray.tune", "ray.data") and one.binds != "ray"
            if shadows or renamed:
                yield module.at(one.line, f"binds {one.binds!r}: write `import {one.target}`")


def small_files_and_functions(modules: list[Module]) -> Iterator[str]:
    """Files have at most 400 lines, functions at most 60."""
    for module in modules:
        if (lines := len(module.source.splitlines())) > MAX_FILE_LINES:
            yield module.at(lines, f"{lines} lines; expected at most {MAX_FILE_LINES}")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES:
                    yield module.at(node.lineno, f"{node.name}: {lines} lines; expected at most {MAX_FUNCTION_LINES}")


def no_circles(modules: list[Module]) -> Iterator[str]:
    """Modules import no circle, lazy and typing imports included."""
    known = {module.name: module for module in modules}
    edges: dict[str, dict[str, int]] = {name: {} for name in known}
    for module in modules:
        for one in module.imports:
            target = one.target if one.target in known else one.target.rpartition(".")[0]
            if target in known and target != module.name:
                edges[module.name].setdefault(target, one.line)
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> Iterator[str]:
        if name in trail:
            circle = (*trail[trail.index(name) :], name)
            yield known[name].at(edges[name][circle[1]], "imports a circle: " + " → ".join(circle))
        elif name not in done:
            for target in edges[name]:
                yield from walk(target, (*trail, name))
            done.add(name)

    for name in known:
        yield from walk(name, ())


def everything_typed(modules: list[Module]) -> Iterator[str]:
    """Every parameter and every return has a type; `self`, `cls` and the return of `__init__` need none."""
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                a = node.args
                parameters = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
                untyped = [p.arg for p in parameters if p.annotation is None and p.arg not in ("self", "cls")]
                if node.returns is None and node.name != "__init__":
                    untyped.append("its return")
                if untyped:
                    yield module.at(node.lineno, f"{node.name}: no type for {', '.join(untyped)}")


def telling_names(modules: list[Module]) -> Iterator[str]:
    """No file or folder has a name that says nothing: utils, common, helpers, misc, base, manager."""
    for module in modules:
        for part in EMPTY_NAMES & set(module.name.split(".")):
            yield module.at(1, f"{part!r} does not say what is inside")


def no_swallowed_errors(modules: list[Module]) -> Iterator[str]:
    """No `except Exception: pass`, in any spelling: an error is handled, told, or narrow enough to be expected."""
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or is_broad(node.type)
                if broad and all(is_nothing(statement) for statement in node.body):
                    yield module.at(node.lineno, "catches everything and does nothing")
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "suppress":
                if any(is_broad(argument) for argument in node.args):
                    yield module.at(node.lineno, "suppresses everything")


def is_broad(kind: ast.expr) -> bool:
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(ast.unparse(one).split(".")[-1] in ("Exception", "BaseException") for one in kinds)


def is_nothing(statement: ast.stmt) -> bool:
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_constant or isinstance(statement, ast.Pass | ast.Continue)


def light_stage_tops(modules: list[Module]) -> Iterator[str]:
    """The top of a stage's file imports only pydantic, pipelines.stage, training, engines, dialogue_options, chat_rows
    and the standard library, so that reading and planning cost nothing. Of a stage that is a folder: the top of its
    __init__.py, which may import its own folder. serve/trial/stage.py is a stage like any other, with
    serve.options."""
    for module in modules:
        depth = module.path.count("/")
        outside = not module.stage or depth > (3 if module.path.endswith("__init__.py") else 2)
        if outside and module.path != "serve/trial/stage.py":
            continue
        folder = f"pipelines.stages.{module.stage}"
        allowed = (
            "pydantic",
            "pipelines.stage",
            "pipelines.training",
            "pipelines.engines",
            "pipelines.dialogue_options",
            "pipelines.chat_rows",
            "serve.options",
            folder,
        )
        allowed += tuple(sys.stdlib_module_names)
        for one in module.imports:
            if one.top and not one.typing and not one.within(*allowed):
                yield module.at(one.line, f"imports {one.target} at its top; import it inside `run`")


def no_traces(texts: dict[str, str]) -> Iterator[str]:
    """Nothing names a machine's folders or a package registry."""
    for path, text in texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            for what, pattern in TRACES.items():
                if pattern.search(line):
                    yield f"{path}:{number}: {what}: {line.strip()[:80]}"


RULES: list[Rule] = [
    direction, layers, stages_apart, crafts_without_ray, one_door_a_library, no_shadows, small_files_and_functions,
    no_circles, everything_typed, telling_names, no_swallowed_errors, light_stage_tops,
]  # fmt: skip
