"""The commands about models: ``train`` one from a file, ``price`` a book with it, keep its versions in a ``store``.

A training file is YAML, its keys the arguments of `spectralmc.train`::

    process: BlackScholes
    bounds: {volatility: [0.05, 0.8]}
    maturity: [0.03, 3.0]
    carry: [0.0, 0.08]
    functional: ArithmeticAverage         # or, with arguments, {KnockOut: {barrier: 1.2, direction: up}}
    steps: 300                            # or budget: process seconds
    seed: 1
    time_steps: 32
    grid: {half_width: 12, size: 48}
    recipe: {width: 64}
    out: asian.safetensors                # if not given, the file's name with this ending
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectralmc.store import ConflictError, DamagedError, MissingError, Record, Store, UnknownOutcomeError, load
from spectralmc.terminal import CONFLICT, DONE, FAILED, INTERRUPTED, UNKNOWN, InputError, complain, printable, say

if TYPE_CHECKING:
    from spectralmc.surrogate import Surrogate

_TRAINING = ("process", "bounds", "maturity", "functional")
_OPTIONAL = ("carry", "logarithmic", "steps", "budget", "seed", "time_steps", "grid", "recipe", "out")
_HOUR = 3600.0
_SHOWN = 10


def add_parsers(commands: Any) -> None:
    """Add ``train``, ``price`` and ``store`` to the parser of commands."""
    train = commands.add_parser("train", help="train a model as a YAML file says, save it, and commit it to a store")
    train.add_argument("file", metavar="FILE.yaml")
    train.add_argument("--commit", metavar="STORE", help="store that gets the model as its next version; made if it is not there")
    train.add_argument("-m", "--message", default="", help="what to say of the version")
    train.add_argument("--expect-parent", metavar="N", type=int, help="commit only if the newest version is this one")
    train.set_defaults(command=_ending(_train))

    price = commands.add_parser("price", help="price a book of options, CSV in and CSV out")
    price.add_argument("model", metavar="MODEL", help="a file, or STORE@VERSION")
    price.add_argument("book", metavar="BOOK.csv")
    price.add_argument("-o", dest="out", metavar="PRICES.csv", required=True)
    price.add_argument("--bad-rows", choices=("refuse", "skip"), default="refuse", help="what to do with them (default: %(default)s)")
    price.set_defaults(command=_ending(_price))

    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--store", metavar="DIR", default=argparse.SUPPRESS, help="the store (default: SPECTRALMC_STORE)")
    where.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="for programs")
    store = commands.add_parser("store", help="versions of models: init, list, show, log, verify, tag, gc", parents=[where])
    several = store.add_subparsers(required=True, metavar="WHAT")

    def add(name: str, command: Callable[[argparse.Namespace], int], words: str) -> Any:
        parser = several.add_parser(name, help=words, parents=[where])
        parser.set_defaults(command=_ending(command))
        return parser

    add("init", _init, "make an empty store").add_argument("folder", metavar="DIR", nargs="?")
    add("list", _list, "the versions there are").add_argument("--ids", action="store_true", help="number and hash only")
    add("show", _show, "one version whole").add_argument("version", metavar="VERSION", nargs="?", default="latest")
    add("log", _log, "every record, newest first")
    verify = add("verify", _verify, "read every byte; say what is damaged")
    verify.add_argument("--expect", metavar="N:HASH", action="append", default=[], help="a record known from elsewhere; may be repeated")
    tag = add("tag", _tag, "list the tags, or move one")
    tag.add_argument("name", metavar="NAME", nargs="?")
    tag.add_argument("version", metavar="VERSION", nargs="?", default="latest")
    tag.add_argument("--delete", action="store_true", help="remove the tag")
    tag.add_argument("-m", "--message", default="", help="why")
    gc = add("gc", _gc, "drop old versions without a tag; without --yes only say which")
    gc.add_argument("--keep", metavar="N", type=int, required=True, help="how many of the newest stay")
    gc.add_argument("--grace", metavar="HOURS", type=float, default=24.0, help="age of a file that may go (default: %(default)s)")
    done = gc.add_mutually_exclusive_group()
    done.add_argument("--yes", action="store_true", help="do it")
    done.add_argument("--dry-run", action="store_true", help="do nothing, which is the default")


def _ending(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Return the command with the exit statuses of a store."""

    def run(options: argparse.Namespace) -> int:
        try:
            return command(options)
        except ConflictError as error:
            return complain(printable(str(error)), CONFLICT)
        except UnknownOutcomeError as error:
            return complain(printable(f"{error.strerror}: {error.filename}"), UNKNOWN)
        except (DamagedError, MissingError) as error:
            return complain(printable(str(error)), FAILED)

    return run


@contextmanager
def _users() -> Iterator[None]:
    """Let a refusal of what the user gave be one line; what else fails is ours, and shown whole."""
    try:
        yield
    except DamagedError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(printable(str(error))) from error


def _store(options: argparse.Namespace, folder: str | None = None) -> Store:
    path = folder or getattr(options, "store", None) or os.environ.get("SPECTRALMC_STORE")
    if not path:
        raise InputError("no store was named: give --store DIR or set SPECTRALMC_STORE")
    return Store(path)


def _json(options: argparse.Namespace, value: Any) -> bool:
    """Print a value for programs if they asked."""
    asked = getattr(options, "json", False)
    if asked:
        say(json.dumps(value, indent=1, sort_keys=True))
    return bool(asked)


# The store ----------------------------------------------------------------------------------------------------------------------


def _init(options: argparse.Namespace) -> int:
    with _users():
        store = _store(options, options.folder).init()
    if not _json(options, {"store": store.path}):
        say(f"✓ store {printable(store.path)}")
    return DONE


def _list(options: argparse.Namespace) -> int:
    store = _store(options)
    versions = store.list()
    if options.ids:
        _say_all(f"{record.number} {record.hash}" for record in versions)
    elif not _json(options, [_plain(record) for record in versions]):
        tags = store.tags()
        _say_all(_line(record, [name for name, number in tags.items() if number == record.number]) for record in versions)
    return DONE


def _show(options: argparse.Namespace) -> int:
    with _users():
        record = _store(options).find(options.version)
    if not _json(options, _plain(record)):
        say(_line(record))
        say(f"hash {record.hash}")
        for name, value in sorted(record.description.items()):
            say(f"{name:20} {json.dumps(value, sort_keys=True)}")
        for name, entry in record.objects.items():
            say(f"{name}  {entry['size']} bytes, SHA-256 {entry['sha256']}")
    return DONE


def _log(options: argparse.Namespace) -> int:
    records = _store(options).log()[::-1]
    if not _json(options, [_plain(record) for record in records]):
        _say_all(map(_line, records))
    return DONE


def _verify(options: argparse.Namespace) -> int:
    with _users():
        audit = _store(options).verify(options.expect)
    end = f"{audit.head.number}:{audit.head.hash}" if audit.head else None
    report = {"sound": audit.sound, "problems": audit.problems, "notes": audit.notes, "versions": audit.versions, "head": end}
    if not _json(options, report):
        for problem in audit.problems:
            say(f"✗ {problem}")
        for note in audit.notes:
            say(f"– {note}")
        if audit.sound:
            say(f"✓ {audit.versions} versions, {audit.bytes} bytes of objects; newest record {end or 'none'}")
    return DONE if audit.sound else FAILED


def _tag(options: argparse.Namespace) -> int:
    store = _store(options)
    if options.name is None:
        tags = store.tags()
        if not _json(options, tags):
            for name, number in sorted(tags.items()):
                say(f"{name} {number}")
        return DONE
    with _users():
        record = store.tag(options.name, None if options.delete else options.version, options.message)
    if not _json(options, _plain(record)):
        say(f"✓ {printable(record.message)} · {record.number}:{record.hash}")
    return DONE


def _gc(options: argparse.Namespace) -> int:
    with _users():
        done = _store(options).gc(options.keep, _HOUR * options.grace, dry_run=not options.yes)
    if not _json(options, {"dropped": done.dropped, "files": done.files, "bytes": done.bytes, "dry_run": not options.yes}):
        numbers = ", ".join(map(str, done.dropped)) or "none"
        what = f"{len(done.dropped)} versions ({numbers}) and {len(done.files)} files of {done.bytes} bytes"
        say(f"✓ dropped {what}" if options.yes else f"– would drop {what}; add --yes to do it")
    return DONE


def _say_all(lines: Iterable[str]) -> None:
    """Print many lines at once."""
    if text := "\n".join(lines):
        say(text)


def _plain(record: Record) -> dict[str, Any]:
    return {"hash": record.hash, "number": record.number, **record.body}


def _line(record: Record, tags: list[str] | None = None) -> str:
    """Return a record as a line: its kind, hash, when, by whom, how accurate, how trained, and what was said."""
    kind = f"version {record.number}" if record.kind == "version" else record.kind
    error = record.description.get("relative_error")
    accuracy = [f"price error {error:.1e} s.d."] if isinstance(error, float) else []
    training = record.description.get("record")
    if isinstance(training, dict) and {"steps", "seed"} <= training.keys():
        accuracy.append(f"{training['steps']} steps, seed {training['seed']}")
    parts = [kind, record.hash[:12], str(record.body["time"]), str(record.body["author"]), *accuracy, *(tags or []), record.message]
    return " · ".join(printable(part) for part in parts if part)


# Models -------------------------------------------------------------------------------------------------------------------------


def _train(options: argparse.Namespace) -> int:
    from spectralmc.runner import read_yaml

    asked = read_yaml(Path(options.file))
    if options.commit is None and options.expect_parent is not None:
        raise InputError("--expect-parent is of a store: give --commit STORE too")
    with _users():
        arguments = _arguments(asked)
    out = Path(asked.get("out") or Path(options.file).with_suffix(".safetensors").name)
    if not out.parent.is_dir():
        raise InputError(f"out must be a file in a folder that is there; got {str(out)!r}")
    with _users():
        store = None if options.commit is None else _ready(Store(options.commit), options.expect_parent)
    from spectralmc.training import train

    try:
        with _users():
            result = train(**arguments, progress=sys.stderr is not None and sys.stderr.isatty())
    except FloatingPointError as error:
        return complain(str(error), FAILED)
    say(f"✓ {printable(str(result.surrogate.save(out)))} · {result.surrogate!r}")
    if result.interrupted:
        return complain("interrupted: what was learned so far is saved, nothing was committed", INTERRUPTED)
    if store:
        with _users():
            record = store.commit(result.surrogate, options.message, expect_parent=options.expect_parent)
        say(f"✓ {printable(store.path)}@{record.number}:{record.hash}")
    return DONE


def _ready(store: Store, expect_parent: int | None) -> Store:
    """Return a store, made if it is not there: what speaks against the commit is better known before the training."""
    log = store.init().log()
    newest = log[-1].number if log else 0
    if expect_parent not in (None, newest):
        raise ConflictError(f"conflict: the newest version is {newest}, you expected {expect_parent}")
    return store


def _arguments(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `train` that a training file asks for, or refuse it."""
    from spectralmc import surrogate, training
    from spectralmc.parameters import ParameterSpace, refuse_unknown
    from spectralmc.spectrum import FrequencyGrid

    refuse_unknown(asked, [*_TRAINING, *_OPTIONAL], "key")
    if missing := [name for name in _TRAINING if name not in asked]:
        raise ValueError(f"key {missing[0]!r} is missing; a training file needs {', '.join(_TRAINING)}")
    if not isinstance(asked["bounds"], dict):
        raise ValueError(f"bounds must be 'name: [lower, upper]' lines; got {asked['bounds']!r}")
    if not isinstance(asked.get("out", ""), str):
        raise ValueError(f"out must be the name of a file; got {asked['out']!r}")
    processes, functionals = map(surrogate.named_classes, ("spectralmc.processes", "spectralmc.functionals"))
    name, values = _named_functional(asked["functional"])
    refuse_unknown([str(asked["process"])], processes, "process")
    refuse_unknown([name], functionals, "functional")
    space = {key: asked[key] for key in ("bounds", "maturity", "carry", "logarithmic") if key in asked}
    kept: dict[str, Any] = {key: asked[key] for key in ("steps", "budget", "seed", "time_steps") if key in asked}
    made = {"grid": FrequencyGrid, "recipe": training.Recipe}
    return {
        "space": ParameterSpace(processes[str(asked["process"])], **space),
        "functional": _made(functionals[name], values, "functional"),
        **kept,
        **{key: _made(kind, asked[key], key) for key, kind in made.items() if key in asked},
    }


def _named_functional(asked: Any) -> tuple[str, Any]:
    if isinstance(asked, dict) and len(asked) == 1:
        ((name, values),) = asked.items()
        return str(name), values or {}
    if not isinstance(asked, str):
        raise ValueError(f"functional must be a name, or a name with its arguments in braces; got {asked!r}")
    return asked, {}


def _made(kind: Any, values: Any, key: str) -> Any:
    """Return the dataclass with these values of its fields, or refuse them."""
    from spectralmc.parameters import refuse_unknown

    if not isinstance(values, dict):
        raise ValueError(f"{key} must be 'name: value' lines; got {values!r}")
    refuse_unknown(values, [field.name for field in dataclasses.fields(kind)], f"entry of {key}")
    return kind(**values)


def _price(options: argparse.Namespace) -> int:
    with _users():
        model, name = _model(options.model)
    from spectralmc.book import price_book

    with _users():
        priced = price_book(model, options.book)
    for problem in priced.problems[:_SHOWN]:
        complain(printable(problem), FAILED)
    if len(priced.problems) > _SHOWN:
        complain(f"and {len(priced.problems) - _SHOWN} more", FAILED)
    if priced.problems and options.bad_rows == "refuse":
        raise InputError(f"{len(priced.problems)} bad rows, nothing was written: mend them or give --bad-rows skip")
    if not priced.rows:
        raise InputError("no row could be priced, nothing was written")
    priced.write(options.out)
    skipped = f", {len(priced.problems)} skipped" if priced.problems else ""
    say(f"✓ {printable(options.out)} · {len(priced.rows)} prices{skipped} · {printable(name)}")
    return DONE


def _model(name: str) -> tuple[Surrogate, str]:
    """Return the model in a file, or STORE@VERSION, and what it is: with the hash of a version."""
    model = load(name)
    where = name if Path(name).is_file() else name.rpartition("@")[0]
    return model, f"{where}@{model.version}" if model.version else name
