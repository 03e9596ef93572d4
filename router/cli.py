"""The `chiasm` command."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from router.config import ConfigError, Flags, Loaded, Settings, load_settings, masked

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
    workers: Annotated[int, typer.Option(min=1, help="How many processes share the work.")] = 1,
    text: Annotated[str | None, typer.Option(help="The brain: base URL of a text model, ending in /v1.")] = None,
    text_model: Annotated[
        str | None, typer.Option(help="The brain's model id.", show_default="the first listed")
    ] = None,
    vision: Annotated[str | None, typer.Option(help="The eyes: base URL of a vision model, ending in /v1.")] = None,
    vision_model: Annotated[
        str | None, typer.Option(help="The eyes' model id.", show_default="the first listed")
    ] = None,
) -> None:
    """Run the service.  With --text and --vision no file is needed."""
    from router.server import serve as run  # the web stack: other commands need not wait for it

    flags = Flags(host=host, port=port, text=text, text_model=text_model, vision=vision, vision_model=vision_model)
    loaded = _load(config, flags)
    if workers > 1 and loaded.settings.store.kind == "memory":
        typer.echo(
            "chiasm: warning: [store] kind = 'memory' is not shared: each worker numbers and remembers images on its "
            "own; use 'disk' or 'redis', or one worker",
            err=True,
        )
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


@app.command()
def doctor(
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
    repeat: Annotated[int, typer.Option(min=1, max=100, help="How often a tool call is asked for, each way.")] = 3,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens to spend at most, prompts and answers.",
            show_default="60000, more with --repeat",
        ),
    ] = None,
    text: Annotated[str | None, typer.Option(help="The brain, as of `serve`.")] = None,
    text_model: Annotated[
        str | None, typer.Option(help="The brain's model id.", show_default="the first listed")
    ] = None,
    vision: Annotated[str | None, typer.Option(help="The eyes, as of `serve`.")] = None,
    vision_model: Annotated[
        str | None, typer.Option(help="The eyes' model id.", show_default="the first listed")
    ] = None,
) -> None:
    """Check brain, eyes and the whole path, and say what to change.  Exit code 1: something failed."""
    loaded = _load(config, Flags(text=text, text_model=text_model, vision=vision, vision_model=vision_model))
    from router.doctor.run import doctor as run  # the web stack: a bad configuration is told without it

    raise typer.Exit(run(loaded.settings, as_json=as_json, repeat=repeat, max_tokens=max_tokens))


@app.command()
def bench(
    config: ConfigFile = None,
    streams: Annotated[str, typer.Option(help="Streams at once, level by level; empty: no sweep.")] = "1,2,4,8",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Of each prompt.")] = 512,
    max_tokens: Annotated[int, typer.Option(min=2, help="Of each answer.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="How often each level is measured on each side.")] = 3,
    needle: Annotated[
        int, typer.Option(min=0, metavar="TOKENS", help="Find a fact in a prompt of this length.", show_default="no")
    ] = 0,
    images: Annotated[int, typer.Option(min=0, help="Image turns through Chiasm.", show_default="none")] = 0,
    alone: Annotated[bool, typer.Option("--alone", help="Only the brain alone.")] = False,
    behind: Annotated[bool, typer.Option("--behind", help="Only the brain behind Chiasm.")] = False,
    cached: Annotated[bool, typer.Option("--cached", help="One prompt for all, for prefix caches to answer.")] = False,
    seconds: Annotated[float, typer.Option(min=1, help="When to stop at the latest.")] = 600,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="All figures; -: to standard output, instead of tables.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="A picture of the sweep, .svg or .png.")] = None,
    brain: Annotated[
        str | None, typer.Option(help="One of the configured brains, by its name.", show_default="the first")
    ] = None,
    text: Annotated[str | None, typer.Option(help="The brain, as of `serve`.")] = None,
    text_model: Annotated[
        str | None, typer.Option(help="The brain's model id.", show_default="the first listed")
    ] = None,
    vision: Annotated[str | None, typer.Option(help="The eyes, as of `serve`.")] = None,
    vision_model: Annotated[
        str | None, typer.Option(help="The eyes' model id.", show_default="the first listed")
    ] = None,
) -> None:
    """Measure the brain alone and behind Chiasm, in turn.  Says first what it can cost; Ctrl-C shows what is there."""
    flags = Flags(text=text, text_model=text_model, vision=vision, vision_model=vision_model)
    loaded = _load(config, flags)
    from router.bench.outputs import Outputs  # the web stack: a bad configuration is told without it
    from router.bench.plan import BadPlan, Plan, numbers
    from router.bench.run import CannotMeasure
    from router.bench.run import bench as run

    try:
        plan = Plan(
            sides=("alone",) if alone and not behind else ("behind",) if behind and not alone else ("alone", "behind"),
            streams=numbers(streams),
            rounds=rounds,
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            needle_tokens=needle,
            images=images,
            seconds=seconds,
            cached=cached,
        )
        code = run(loaded, flags, plan, brain=brain, outputs=Outputs(json_file, plot))
    except (BadPlan, CannotMeasure, OSError) as reason:
        typer.echo(f"chiasm: {reason}", err=True)
        code = 2
    raise typer.Exit(code)


@app.command()
def images(
    conversation: Annotated[
        str | None, typer.Argument(help="Its id, the beginning of it, or its name; without: all.", show_default=False)
    ] = None,
    forget: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Take what was seen in #N out of the prompt.")
    ] = None,
    load: Annotated[int | None, typer.Option(min=1, metavar="N", help="Put it back.")] = None,
    pin: Annotated[int | None, typer.Option(min=1, metavar="N", help="Load #N and never forget it.")] = None,
    unpin: Annotated[int | None, typer.Option(min=1, metavar="N", help="It may be forgotten again.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    url: Annotated[
        str | None, typer.Option(help="Where the service runs.", show_default="as configured, else port 8090")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Show the image tables of the running service, and change them."""
    from rich.console import Console

    from router.admin.models import Action
    from router.admin.terminal import CannotShow, Service, Wish, show

    given: dict[Action, int | None] = {"forget": forget, "load": load, "pin": pin, "unpin": unpin}
    wishes = [Wish(action, number) for action, number in given.items() if number is not None]
    if len(wishes) > 1 or (wishes and conversation is None):
        typer.echo(
            "chiasm: one of --forget, --load, --pin and --unpin at a time, and the conversation it is for", err=True
        )
        raise typer.Exit(2)
    where, settings = _running(config, url)
    try:
        with Service(where, settings.server.admin_key.get_secret_value()) as service:
            show(service, conversation, wishes[0] if wishes else None, as_json=as_json, console=Console())
    except CannotShow as reason:
        typer.echo(f"chiasm: {reason}", err=True)
        raise typer.Exit(1) from None


@app.command()
def recipe(
    name: Annotated[
        str | None, typer.Argument(help="A machine; without: all that there are.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The brain: one of the models listed, or hosted.", show_default="the recipe's")
    ] = None,
    eyes: Annotated[
        str | None,
        typer.Option(help="One of the models listed, same (the brain's server) or ocr.", show_default="the recipe's"),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="vllm, sglang or llamacpp.", show_default="the recipe's first")
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(help="How many, or 2x48: two with 48 GB each.", show_default="the recipe's")
    ] = None,
    only_toml: Annotated[bool, typer.Option("--toml", help="The configuration alone, for a file.")] = False,
) -> None:
    """Print launch commands for brain and eyes on a known machine, and the configuration for them."""
    from router.recipes.catalogue import NoSuchRecipe, catalogue
    from router.recipes.choice import recipe_for
    from router.recipes.render import configuration, listing, whole

    known = catalogue()
    if name is None:
        typer.echo(listing(known))
        return
    try:
        chosen = recipe_for(known, name, engine=engine, model=model, eyes=eyes, gpus=gpus)
    except NoSuchRecipe as reason:
        typer.echo(f"chiasm: {reason}", err=True)
        raise typer.Exit(2) from None
    typer.echo(configuration(chosen) if only_toml else whole(chosen, known))


@app.command("print-config")
def print_config(
    client: Annotated[
        str | None, typer.Argument(help="A client; without: all that there are.", show_default=False)
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Where clients reach the service.", show_default="as configured, else port 8090")
    ] = None,
    context: Annotated[int, typer.Option(min=1024, help="Tokens that the text model can take.")] = 131_072,
    config: ConfigFile = None,
) -> None:
    """Print what a client needs to be told, ready to paste: claude-code-router, OpenCode, Codex and others."""
    from router.print_config import NoSuchClient, clients, find, remarks, service_of, snippet

    if client is None:
        width = max(map(len, clients()))
        for name, known in clients().items():
            typer.echo(f"{name:{width}}  {known.title}")
        return
    try:
        wanted = find(client)
    except NoSuchClient as reason:
        typer.echo(f"chiasm: {reason}", err=True)
        raise typer.Exit(2) from None
    where, settings = _running(config, url)
    service = service_of(settings, url=where, context=context)
    # The text alone can go into a file; what to do with it is for the screen.
    typer.echo(snippet(wanted, service), nl=False)
    for line in remarks(wanted, service):
        typer.echo(f"# {line}", err=True)


def _running(config: Path | None, url: str | None) -> tuple[str, Settings]:
    """Where the service is, and its settings.  One that was started by flags alone has no file to tell; then the
    defaults stand."""
    find = partial(load_settings, environ=os.environ, cwd=Path.cwd(), home=Path.home())
    try:
        settings = find(config).settings
    except ConfigError:
        if config is not None:
            raise
        anywhere = Flags(text="http://127.0.0.1/v1", vision="http://127.0.0.1/v1")
        settings = find(flags=anywhere).settings
    server = settings.server
    if url is None and server.port == 0:
        raise ConfigError("[server] port is 0, so the service may be anywhere: give --url")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104 (only compared)
    shown = f"[{host}]" if ":" in host else host
    return url or f"http://{shown}:{server.port}", settings


def _load(config: Path | None, flags: Flags) -> Loaded:
    loaded = load_settings(config, flags=flags, environ=os.environ, cwd=Path.cwd(), home=Path.home())
    for note in loaded.notes:
        typer.echo(f"chiasm: note: {note}", err=True)
    return loaded


if __name__ == "__main__":
    main()
