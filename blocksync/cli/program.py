"""The tree of commands. A command's module is imported when it is called: the start stays fast."""

from __future__ import annotations

import importlib

import click

from blocksync import __version__

COMMANDS = {
    "demo": "blocksync.cli.demo.command",
    "recv": "blocksync.cli.receiving",
    "send": "blocksync.cli.sending",
    "copy": "blocksync.cli.copying",
    "verify": "blocksync.cli.verifying",
    "status": "blocksync.cli.transfers",
    "stop": "blocksync.cli.transfers",
    "limit": "blocksync.cli.transfers",
    "receipt": "blocksync.cli.receipts",
    "delete": "blocksync.cli.transfers",
    "check": "blocksync.cli.checking",
    "estimate": "blocksync.cli.estimating",
    "bench": "blocksync.cli.benching",
    "inspect": "blocksync.cli.inspecting",
    "flatten": "blocksync.cli.flattening",
    "boot-test": "blocksync.cli.booting",
    "manifest": "blocksync.cli.slots",
    "peers": "blocksync.cli.trusted",
    "revoke": "blocksync.cli.trusted",
}

EPILOG = """\
Exit codes: 0 done, 1 unexpected, 2 usage, 3 incomplete but resumable, 4 source, 5 target, 6 state, 7 protocol or
peer, 8 network, 9 integrity (verify: differing), 10 layout, 11 flatten, 12 trust, 130 interrupted.
"""


class Program(click.Group):
    """Finds commands by the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx  # the same in any context
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            import difflib

            if near := difflib.get_close_matches(args[0], COMMANDS, 1):
                ctx.fail(f"There is no command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)


def _show_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    import platform

    from blocksync.errors import KernelsError
    from blocksync.kernels import IMPLEMENTATION, describe, load

    native = "in use"
    if IMPLEMENTATION != "native":
        try:
            load("native")
            native = "there, not in use"
        except KernelsError as error:
            native = f"not there: {error.message}"
    click.echo(f"blocksync {__version__}")
    click.echo(f"Python {platform.python_version()} ({platform.python_implementation()}, {platform.machine()})")
    click.echo(f"kernels: {describe()}")
    click.echo(f"native kernels: {native}")
    context.exit()


@click.group(cls=Program, invoke_without_command=True, epilog=EPILOG)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the versions and the kernels in use.",
)
@click.pass_context
def program(context: click.Context) -> int:
    """Move whole disks between machines, block by block, and prove that the copy is identical."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        return 2
    return 0
