"""What every job's entry point does: read the settings, say what starts, answer wrong input with one line."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence

from cliploom import config as configs
from cliploom.errors import InputError, StorageError
from cliploom.redacting import redacted

SETTING = re.compile(r"^[a-z_]+(\.[A-Za-z0-9_/@-]+)+=")  # of a command line; other words are a job's own


def run(
    main: Callable[[configs.Config, list[str]], None],
    words: str = "",
    argv: Sequence[str] | None = None,
    options: Mapping[str, str] | None = None,
    dry_run: Callable[[configs.Config], None] | None = None,
) -> int:
    """Run a job's `main(config, words)`; its docstring is the job's help.

    Args:
        main: does the work; `words` are the arguments that are not settings.
        words: usage of those arguments; a job without it takes none.
        options: short for settings: `{"--override": "review.override"}`. Of a key that is true or false the option
            stands alone and means true; of others it takes the value.
        argv: the command line, by default the process's.
        dry_run: prints what the job would cost; a job without it has no --dry-run.

    Returns:
        The exit code: 0 done, 2 the user's input is wrong, 1 storage can't be reached (both said in one line). Anything
        else raises, and Python exits 1.
    """
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(main.__doc__ or ""),
        epilog=_help(),
        usage=" ".join(
            ["%(prog)s --config FILE", *filter(None, [words]), *_usage(options or {}), "[section.key=value ...]"]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings")
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved settings, without passwords, and exit"
    )
    _add_options(parser, options or {})
    if dry_run:
        parser.add_argument("--dry-run", action="store_true", help="print what the job will cost and exit")
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args(argv)
    try:
        settings = [word for word in arguments.rest if SETTING.match(word)] + (arguments.settings or [])
        others = [word for word in arguments.rest if not SETTING.match(word)]
        if others and not words:
            raise InputError(f"'{others[0]}' is no setting: write section.key=value")
        config = configs.load(arguments.config, settings)
        if arguments.print_config:
            print(redacted(configs.dump(config)), end="")
        elif dry_run and arguments.dry_run:
            dry_run(config)
        else:
            main(config, others)
    except InputError as error:
        print("error:", *str(error).split(), file=sys.stderr)  # on one line, whatever a library's words in it
        return 2
    except StorageError as error:
        print("error:", *str(error).split(), "(run the same command again to go on)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def header(name: str | None, storage: str, tracking: str) -> None:
    """The first lines that a job prints: what it is called, and where its data and its MLflow run are."""
    print(f"run      {name}\nstorage  {storage}\nmlflow   {tracking}", flush=True)


def _usage(options: Mapping[str, str]) -> list[str]:
    return [
        f"[{name}]" if _is_switch(key) else f"[{name} {key.split('.')[-1].upper()}]" for name, key in options.items()
    ]


def _add_options(parser: argparse.ArgumentParser, options: Mapping[str, str]) -> None:
    """Each option appends `key=value` to the namespace's `settings`."""
    parser.set_defaults(settings=None)
    for name, key in options.items():
        if _is_switch(key):
            parser.add_argument(
                name, dest="settings", action="append_const", const=f"{key}=true", help=f"short for {key}=true"
            )
        else:
            value = key.split(".")[-1].upper()
            parser.add_argument(
                name,
                dest="settings",
                action="append",
                type=f"{key}={{}}".format,
                metavar=value,
                help=f"short for {key}={value}",
            )


def _is_switch(key: str) -> bool:
    rows = list(configs.keys())
    return (key, "bool") in [(name, kind) for name, kind, *_ in rows]


def _help() -> str:
    rows = list(configs.keys())
    width = max(len(key) for key, *_ in rows)
    lines = [f"  {key:<{width}}  {kind}, default {default}: {text}" for key, kind, default, text in rows]
    return "keys (also in the YAML file, as section: {key: value}):\n" + "\n".join(lines)
