"""The `chiasm` command."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from router.config import ConfigError, Flags, Loaded, load_settings, masked

app = typer.Typer(
    name="chiasm",
    help="Gives a text model eyes: images leave the request, a vision model looks when asked, and one seamless answer "
    "comes back.  Begin with `chiasm demo`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="Configuration file (TOML).", show_default=False)
]


def main() -> None:
    """Entry point: a bad configuration is one clear line and exit code 2, wherever it was found."""
    try:
        app()
    except ConfigError as error:
        for problem in error.problems:
            typer.echo(f"chiasm: {problem}", err=True)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _root(show_version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if show_version:
        typer.echo(f"chiasm {version('chiasm')}")
        raise typer.Exit


@app.command()
def serve(
    config: ConfigFile = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any free one.", show_default="8090")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    text: Annotated[str | None, typer.Option(help="The brain: base URL of a text model, ending in /v1.")] = None,
    text_model: Annotated[str | None, typer.Option(help="Its id.", show_default="the first listed")] = None,
    vision: Annotated[str | None, typer.Option(help="The eyes: base URL of a vision model, ending in /v1.")] = None,
    vision_model: Annotated[str | None, typer.Option(help="Its id.", show_default="the first listed")] = None,
) -> None:
    """Run the service.  With --text and --vision no file is needed."""
    from router.server import serve as run  # the web stack: other commands need not wait for it

    flags = Flags(host=host, port=port, text=text, text_model=text_model, vision=vision, vision_model=vision_model)
    loaded = _load(config, flags)
    try:
        run(loaded.settings, workers=workers)
    except OSError as error:
        server = loaded.settings.server
        raise ConfigError(f"cannot listen on {server.host}:{server.port}: {error.strerror or error}") from None


@app.command()
def demo(
    image: Annotated[Path | None, typer.Argument(help="An image with text in it.", show_default="a sample")] = None,
    question: Annotated[str | None, typer.Argument(help="What to ask about it.", show_default="one that fits")] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Leave it running for a client.")] = False,
) -> None:
    """See the whole path work on this machine: no GPU, no key, no network."""
    from router.demo.run import CannotRun  # the web stack, and the demo only here
    from router.demo.run import demo as run

    try:
        code = run(image, question, serve=serve)
    except CannotRun as reason:
        typer.echo(f"chiasm: {reason}", err=True)
        code = 2
    raise typer.Exit(code)


@app.command("check-config")
def check_config(
    file: Annotated[
        Path | None, typer.Argument(help="Configuration file; default: the one that would be used.")
    ] = None,
) -> None:
    """Print the effective configuration, secrets masked."""
    loaded = _load(file, Flags())
    typer.echo(f"# from {loaded.source or 'the defaults'}")
    typer.echo(masked(loaded.settings), nl=False)
    from router.app import without_effect  # the web stack: after the answer is on the screen

    for line in without_effect(loaded.settings):
        typer.echo(f"chiasm: note: {line}", err=True)


def _load(config: Path | None, flags: Flags) -> Loaded:
    loaded = load_settings(config, flags=flags, environ=os.environ, cwd=Path.cwd(), home=Path.home())
    for note in loaded.notes:
        typer.echo(f"chiasm: note: {note}", err=True)
    return loaded


if __name__ == "__main__":
    main()
