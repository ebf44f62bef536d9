"""The `manylora` command. Each subcommand's module is imported only when it is asked for."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from manylora import __version__
from manylora.errors import ManyloraError

_COMMANDS = {
    "serve": "manylora.cli.serve",
    "convert": "manylora.cli.convert",
    "merge": "manylora.cli.merge",
    "roofline": "manylora.cli.roofline",
}
"""Command -> module; the function in it has the command's name."""


class _LazyGroup(typer.core.TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        loaded = importlib.import_module(module)
        single.command(cmd_name, epilog=getattr(loaded, "EPILOG", None))(getattr(loaded, cmd_name))
        return typer.main.get_command(single)


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"manylora {__version__}")
        raise typer.Exit


@app.callback()
def manylora(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Serve many LoRA adapters on one base model: fast, fairly, provably correct."""


def main() -> None:
    """Entry point. A fault we foresaw, or a path that cannot be read or written, is one line on stderr and exit code 1."""
    try:
        app()
    except ManyloraError as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is None:  # not a path that somebody gave
            raise
        _fail(f"{error.filename}: {error.strerror}")


def _fail(reason: str) -> NoReturn:
    typer.echo(f"manylora: {reason}", err=True)
    sys.exit(1)
