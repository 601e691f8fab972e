"""The command line: what a user types, in words that are parsed before anything heavy is imported."""

import argparse
import os
import sys
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path

VERBS: dict[str, tuple[str, str]] = {
    "run": ("the whole workflow, from raw files or synthetic data to results and a report", "run DOMAIN --preset demo"),
    "resume": ("go on with a run after a crash: only what is missing", "resume"),
    "prepare": ("read, check and store the training data", "prepare DOMAIN --data my_files/"),
    "train": ("train one stage of a domain, or all of them", "train DOMAIN.STAGE --run RUN"),
    "sweep": ("search for the best settings of one stage", "sweep DOMAIN.STAGE --space space.yaml --samples 16"),
    "sample": ("draw new samples from a trained run", "sample RUN --count 8"),
    "evaluate": ("measure a run on held-out data", "evaluate RUN"),
    "export": ("write results, or a trained model, for other programs", "export RUN --format glb obj"),
    "report": ("write the report of a run again", "report RUN"),
    "import": ("take over weights of another program as a new run", "import --from FORMAT FILE --domain DOMAIN"),
    "runs": ("list the runs, or show one", "runs list"),
    "submit": ("run any command as a job of a Ray cluster", "submit --address URL -- run DOMAIN --on ray --workers 4"),
    "jobs": ("list, follow, stop the jobs of a Ray cluster", "jobs list --address http://127.0.0.1:8265"),
    "cluster": ("a Ray cluster on this machine, to learn and to test", "cluster up --nodes 3"),
    "doctor": ("say what this machine can do, and what to install for the rest", "doctor"),
    "version": ("print the version", "version"),
}
"""Verb → what it does, and an example."""

ON_RUN = ("sample", "evaluate", "export", "report")
"""Verbs that do one step of a run that exists, or of a new one where a domain is named."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 a fault of ours, 2 a mistake to mend, 130 interrupted."""
    parser = build_parser()
    settings, words = _settings(sys.argv[1:] if words is None else words, _options(parser))
    arguments, rest = parser.parse_known_args(words)
    if arguments.verb is None:
        parser.print_help()
        return 0
    from data.errors import PenstockError

    try:
        return _call(arguments, rest, settings)
    except PenstockError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npenstock: interrupted. `penstock resume` goes on from the last checkpoint.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # a closed pager is no error
        return 0
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    from flows.run import Interrupted, user_message
    from flows.workflow import StepFailed

    if isinstance(error, Interrupted):
        print(f"penstock: {error}", file=sys.stderr)
        return 130
    message = user_message(error)
    if message is not None or isinstance(error, StepFailed):
        print(f"penstock: {message or error}", file=sys.stderr)
        return 2 if message is not None else 1
    traceback.print_exception(error)
    print("penstock: this is a fault of penstock's own; please report the lines above.", file=sys.stderr)
    return 1


def _call(arguments: argparse.Namespace, rest: list[str], settings: list[str]) -> int:
    from cluster import verbs
    from configs.load import parse_overrides

    arguments.overrides = parse_overrides([*settings, *rest])
    function = getattr(verbs, f"do_{arguments.verb}")
    return int(function(arguments) or 0)


def _options(parser: argparse.ArgumentParser) -> set[str]:
    """Every option of every verb."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                found |= set(sub._option_string_actions)
    return found


def _settings(words: Sequence[str], options: Collection[str]) -> tuple[list[str], list[str]]:
    """The settings (`--a.b VALUE`, `--a.b=VALUE`, and a domain's shorthands) apart from the other words.

    Apart, because argparse would take the VALUE of an option that it does not know for a positional argument.
    """
    settings: list[str] = []
    others: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":  # what follows is another command, for `submit`
            return settings, [*others, word, *rest]
        name, equals, _ = word.partition("=")
        if not name.startswith("--") or name in options:
            others.append(word)
            continue
        settings.append(word)
        if not equals and rest and not rest[0].startswith("--"):
            settings.append(rest.pop(0))
    return settings, others


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs. It imports nothing heavy: `penstock --help` answers at once."""
    parser = argparse.ArgumentParser(
        prog="penstock",
        description="Prepare, train, sample, evaluate and export generative models, by one set of commands.",
        epilog="Every verb has --help with an example. Settings: --section.key VALUE, see --print-config.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    made = {
        verb: verbs.add_parser(
            verb,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example: penstock {_example(example)}",
            allow_abbrev=False,
        )
        for verb, (text, example) in VERBS.items()
    }
    for verb, sub in made.items():
        if verb not in ("version",):
            sub.add_argument("--runs-dir", type=Path, metavar="DIR", help="where runs live (PENSTOCK_RUNS, ./runs)")
    for verb in ("run", "prepare", "train", "sweep", *ON_RUN):
        _add_new_run_options(made[verb])
    for verb in ("run", "prepare"):
        made[verb].add_argument("domain", metavar="DOMAIN", help=f"one of: {', '.join(_domains())}")
    made["train"].add_argument("target", metavar="DOMAIN[.STAGE]", help="what to train")
    made["train"].add_argument("--run", metavar="RUN", help="go on in this run instead of a new one")
    for verb in ON_RUN:
        nargs = "*" if verb == "export" else "?"
        meaning = "name or path of a run, or a domain for a new one (default: the newest run)"
        made[verb].add_argument("target", metavar="RUN", nargs=nargs, help=meaning)
        made[verb].add_argument("--again", action="store_true", help="do it again even if it is finished")
    made["evaluate"].add_argument(
        "--leak-test", action="store_true", help="forecasts only: garbage after each origin must not change a bit"
    )
    made["sample"].add_argument("--count", metavar="N", help="how many samples")
    made["export"].add_argument("--format", nargs="+", metavar="FORMAT", help="file formats")
    made["export"].add_argument("--to", type=Path, metavar="DIR", help="`export model RUN`: where to put the models")
    made[
        "export"
    ].epilog = (
        f"{made['export'].epilog}. `penstock export model RUN` writes the trained networks as safetensors folders."
    )
    _add_import(made["import"])
    for verb in ("run", "prepare", "train", "sweep", "resume", *ON_RUN):
        _add_placement(made[verb])
    _add_sweep(made["sweep"])
    _add_jobs(made["submit"], made["jobs"])
    _add_cluster(made["cluster"])
    made["resume"].add_argument("run", metavar="RUN", nargs="?", help="default: the newest unfinished run")
    made["resume"].add_argument("--no-wait", action="store_true", help="fail if another process works on the run")
    made["runs"].add_argument("what", choices=["list", "show"], nargs="?", default="list")
    made["runs"].add_argument("run", metavar="RUN", nargs="?", help="for `show`; default: the newest run")
    return parser


def _add_new_run_options(parser: argparse.ArgumentParser) -> None:
    new = parser.add_argument_group("a new run")
    new.add_argument("--preset", metavar="NAME", help="values from configs/DOMAIN/NAME.yaml (default: demo)")
    new.add_argument("--data", metavar="PATH", help="your own files (default: synthetic data)")
    new.add_argument("--config", type=Path, metavar="FILE", help="a YAML file whose values go over the preset's")
    new.add_argument("--seed", metavar="N", help="all randomness follows from it")
    new.add_argument("--name", metavar="NAME", help="name of the run (default: domain, date and time)")
    new.add_argument("--wandb", metavar="MODE", help="online, offline or off (default: WANDB_MODE, else offline)")
    new.add_argument("--print-config", action="store_true", help="print the resolved configuration and do nothing")


def _add_placement(parser: argparse.ArgumentParser) -> None:
    place = parser.add_argument_group("where it runs")
    place.add_argument("--on", choices=["local", "ray"], help="this process, or a Ray cluster (default: local)")
    place.add_argument("--address", metavar="HOST:PORT", help="of the cluster (RAY_ADDRESS, else one on this machine)")
    place.add_argument("--workers", metavar="N", type=int, help="training processes; the batch is that of all together")
    place.add_argument("--min-workers", metavar="N", type=int, help="go on with so few after a loss (default: N)")
    place.add_argument("--cpus-per-worker", metavar="X", type=float, help="processor cores of each (default: 1)")
    place.add_argument("--gpus-per-worker", metavar="X", type=float, help="GPUs of each (default: 0)")
    place.add_argument("--strategy", choices=["ddp", "fsdp"], help="whole copies, or weights shared out (default: ddp)")
    place.add_argument("--max-failures", metavar="N", type=int, help="restarts after processes that died (default: 3)")
    place.add_argument("--storage", metavar="URI", help="where the run is kept for machines that do not see its folder")


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="DOMAIN.STAGE", help="what to train")
    parser.add_argument(
        "--space", type=Path, metavar="FILE", required=True, help="YAML: what varies, and how it is searched"
    )
    parser.add_argument("--samples", metavar="N", type=int, help="trials (default: what the file says)")
    parser.add_argument("--concurrent", metavar="N", type=int, help="trials at once (default: as the resources allow)")
    parser.add_argument("--memory-per-trial", metavar="GIB", type=float, help="a trial that takes more is ended")


def _add_jobs(submit: argparse.ArgumentParser, jobs: argparse.ArgumentParser) -> None:
    for parser in (submit, jobs):
        parser.add_argument(
            "--address", metavar="URL", help="of the cluster's dashboard (default: RAY_API_SERVER_ADDRESS)"
        )
        parser.add_argument("--token-file", type=Path, metavar="FILE", help="the cluster's token (RAY_AUTH_TOKEN_PATH)")
    submit.add_argument("--working-dir", type=Path, metavar="DIR", help="what is sent along (default: the checkout)")
    submit.add_argument("--max-size", metavar="MIB", type=float, help="of what is sent along (default: 100)")
    submit.add_argument("--pip", metavar="PACKAGE", nargs="+", help="packages that the job installs")
    submit.add_argument("--env", metavar="NAME=VALUE", nargs="+", help="environment of the job")
    submit.add_argument("--cpus", metavar="X", type=float, help="cores of the command itself, not of its workers")
    submit.add_argument("--gpus", metavar="X", type=float, help="GPUs of the command itself")
    submit.add_argument("--job-name", metavar="NAME", help="id of the job (default: made up)")
    submit.add_argument("--no-wait", action="store_true", help="do not follow the job's log")
    submit.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="any penstock command")
    jobs.add_argument("what", choices=["list", "logs", "stop", "status"], nargs="?", default="list")
    jobs.add_argument("job", metavar="JOB", nargs="?", help="default: the newest job")
    jobs.add_argument("--follow", action="store_true", help="`logs`: until the job ends")


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["up", "down", "status"], nargs="?", default="status")
    parser.add_argument("--nodes", metavar="N", type=int, default=1, help="Ray nodes, all on this machine (default: 1)")
    parser.add_argument("--cpus", metavar="N", type=int, help="logical cores of each node (default: shared out)")
    parser.add_argument(
        "--host", metavar="IP", default="127.0.0.1", help="where the dashboard listens (default: 127.0.0.1)"
    )
    parser.add_argument("--no-token", action="store_true", help="let everybody in who reaches the ports")


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="format", metavar="FORMAT", required=True, help="whose weights they are")
    parser.add_argument("file", type=Path, metavar="FILE", help="the file or folder with the weights")
    parser.add_argument("--domain", metavar="DOMAIN", help="where more than one domain reads that format")
    parser.add_argument("--name", metavar="NAME", help="name of the new run")
    parser.add_argument(
        "--data", type=Path, metavar="PATH", help="your own files, for what the run does with the weights"
    )


def _domains() -> list[str]:
    # The folders of configs/ that hold presets, as in configs.load.domain_names, which would import PyYAML.
    import configs

    roots = [Path(root) for root in configs.__path__]
    return sorted({file.parent.name for root in roots for file in root.glob("*/*.yaml")} - {"sweeps"})


def _example(text: str) -> str:
    names = _domains()
    return text.replace("DOMAIN", names[0] if names else "DOMAIN")


if __name__ == "__main__":
    sys.exit(main())
