"""The command `layerserve token`, which creates tokens.

Standard output never has the token, so that `>> tokens.toml` adds an entry with its digest only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from layerserve.cli.parser import Parser, with_default

from layerserve_server.access.rights import RIGHTS, read_rights
from layerserve_server.access.tokens_file import TokensFileError, parse_tokens
from layerserve_server.extensions.installed import VERIFIERS
from layerserve_server.toml_text import toml_value

#: Length of a token, in bytes.
TOKEN_BYTES = 32


def token(argv: Sequence[str]) -> int:
    """Creates a token, and prints it to standard error. Returns the exit status."""
    parser = Parser(prog="layerserve token", description="Create tokens for callers of a server.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    text = (
        "Create a token. Standard output is its entry for the file of `layerserve serve --tokens`, which holds only "
        "its digest. The token is printed to standard error, once. Needs no server."
    )
    create = commands.add_parser("create", help="Create a token.", prog="layerserve token create", description=text)
    create.add_argument("name", metavar="NAME", help="Name of the caller, as in errors and logs.")
    create.add_argument(
        "--rights", required=True, metavar="TEXT", help=f"Comma-separated rights: {', '.join(RIGHTS)}.  [required]"
    )
    create.add_argument(
        "--models",
        default="",
        metavar="TEXT",
        help=with_default("Comma-separated names or patterns (such as 'resnet-*') of models.", "all"),
    )
    create.add_argument("--days", type=int, metavar="N", help=with_default("Days after which it expires.", "never"))
    create.add_argument(
        "--rows-per-second", type=float, metavar="X", help=with_default("Quota of rows per second.", "none")
    )
    create.add_argument(
        "--rows-per-minute", type=float, metavar="X", help=with_default("Quota of rows per minute.", "none")
    )
    create.add_argument(
        "--max-runs", type=int, metavar="N", help=with_default("Maximum number of open training runs.", "none")
    )
    create.add_argument(
        "--max-dataset-bytes",
        type=int,
        metavar="BYTES",
        help=with_default("Maximum size of its datasets together.", "none"),
    )
    create.add_argument(
        "--append",
        type=Path,
        metavar="PATH",
        help=with_default("File of tokens to which the entry is added, instead of printing it.", "none"),
    )
    create.add_argument(
        "--token-file",
        type=Path,
        metavar="PATH",
        help=with_default(
            "New file for the token, which only its owner may read, instead of printing it. Clients take it as "
            "--token-file.",
            "none",
        ),
    )
    arguments = parser.parse_args(list(argv))
    try:
        made, lines = created(arguments)
        if arguments.token_file is None:
            check_separate(arguments.append)
        else:
            write_new(arguments.token_file, made)
        _give_or_undo(arguments.append, lines, arguments.token_file)
    except (OSError, ValueError) as error:
        print(f"layerserve token: {error}", file=sys.stderr)
        return 2
    if arguments.token_file is None:
        print(f"the token of {arguments.name!r}, which isn't shown again:\n{made}", file=sys.stderr)
    return 0


def created(arguments: argparse.Namespace) -> tuple[str, str]:
    """Returns a new token, and the lines of its entry. Raises ValueError if an argument is invalid."""
    made = secrets.token_urlsafe(TOKEN_BYTES)
    rights = [right for right in RIGHTS if right in read_rights(arguments.rights)]
    models = [name.strip() for name in arguments.models.split(",") if name.strip()]
    values: dict[str, object] = {
        "name": arguments.name,
        "sha256": hashlib.sha256(made.encode()).hexdigest(),
        "rights": rights,
    }
    if models:
        values["models"] = models
    if arguments.days is not None:
        if arguments.days < 1:
            raise ValueError(f"--days: got {arguments.days}, expected 1 or more")
        expires = datetime.now(timezone.utc) + timedelta(days=arguments.days)
        values["expires"] = expires.replace(microsecond=0)
    for name in ("rows_per_second", "rows_per_minute", "max_runs", "max_dataset_bytes"):
        if (value := getattr(arguments, name)) is not None:
            values[name] = value
    lines = "[[tokens]]\n" + "".join(f"{key} = {toml_value(value)}\n" for key, value in values.items())
    parse_tokens(lines, "the new entry")
    return made, lines


def check_separate(entries: Path | None) -> None:
    """Raises ValueError if standard error ends where the entry goes: a file, or by default standard output.

    A terminal shows both, and is no file.
    """
    try:
        of_token = os.fstat(sys.stderr.fileno())
        of_entry = os.fstat(sys.stdout.fileno()) if entries is None else entries.stat()
    except (OSError, ValueError):  # a file that doesn't exist yet; a stream that is no file
        return
    if os.path.samestat(of_token, of_entry) and not sys.stderr.isatty():
        where = "standard output" if entries is None else str(entries)
        raise ValueError(
            f"standard error: got {where}, where the entry goes, expected another file, or the token would be in it; "
            "pass --token-file FILE"
        )


def write_new(path: Path, made: str) -> None:
    """Writes a token to a new file that only its owner may read. Raises OSError, also if the file exists."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(made)  # no line break, which would be part of a Secret that is made of the file


def append(path: Path, lines: str) -> None:
    """Adds an entry to a file at once, as a server that reads it requires. Raises OSError and TokensFileError."""
    before = path.read_text("utf-8") if path.exists() else ""
    text = f"{before.rstrip()}\n\n{lines}" if before.strip() else lines
    try:
        parse_tokens(text, str(path), VERIFIERS)
    except TokensFileError as error:
        raise TokensFileError(f"nothing is added: {error}") from error
    written = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    written.write_text(text, "utf-8")
    if path.exists():
        written.chmod(path.stat().st_mode)
    written.replace(path)


def _give_or_undo(path: Path | None, lines: str, token_file: Path | None) -> None:
    """Adds an entry to a file, or prints it; where that fails, the new file with its token is removed."""
    try:
        if path is None:
            print(lines, end="", flush=True)
        else:
            append(path, lines)
    except BaseException:
        if token_file is not None:
            token_file.unlink(missing_ok=True)
        raise
