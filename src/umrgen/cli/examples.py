"""An example of each command, for its help."""

import click

__all__ = ["EXAMPLES", "add_examples"]

EXAMPLES = {
    "login": "umrgen login --profile work",
    "logout": "umrgen logout --profile work",
    "generate": 'umrgen generate "a lighthouse at dusk" -o lighthouse.png --seed 7',
    "submit": 'umrgen submit "a lighthouse at dusk" --steps 8',
    "status": "umrgen status ext_0123 --json",
    "watch": "umrgen watch ext_0123 --events",
    "wait": "umrgen wait ext_0123 ext_0124 --timeout 120",
    "fetch": "umrgen fetch ext_0123 -o - > lighthouse.png",
    "cancel": "umrgen cancel ext_0123",
    "upload": "umrgen upload sketch.png",
    "jobs": "umrgen jobs --state failed --limit 5",
    "show": "umrgen show lighthouse.png",
    "verify": "umrgen verify lighthouse.png --json",
    "resume": "umrgen resume --all",
    "forget": "umrgen forget ext_0123",
    "bench": "umrgen bench --callers 4 --images 40 --width 512 --height 512",
    "config": "umrgen config show",
    "config show": "umrgen config show --all",
    "config check": "umrgen config check umrgen.toml",
    "doctor": "umrgen doctor --draw",
    "mcp": "umrgen mcp --folder ~/Pictures/umrgen",
    "serve": "umrgen serve --port 3088 --state /var/lib/umrgen",
    "work": "umrgen work --ledger postgresql://umrgen@db.example.org/umrgen --blobs s3://my-bucket/umrgen",
    "engine": "umrgen engine check --model http://127.0.0.1:8188",
    "engine check": "umrgen engine check --engine procedural -o image.png",
    "engine plan": "umrgen engine plan owner/name",
    "engine pull": "umrgen engine pull owner/name --revision main",
    "engine release": "umrgen engine release --state /var/lib/umrgen",
    "provenance": "umrgen provenance check --config umrgen.toml",
    "provenance init": "umrgen provenance init ~/.config/umrgen/signing",
    "provenance check": "umrgen provenance check --config umrgen.toml",
    "keys": "umrgen keys create --name laptop --expires 30d",
    "keys create": "umrgen keys create --name laptop --expires 30d",
    "keys list": "umrgen keys list --json",
    "keys revoke": "umrgen keys revoke key_0123",
    "ledger": "umrgen ledger backup ledger-copy.sqlite3",
    "ledger adopt": "umrgen ledger adopt --state /var/lib/umrgen",
    "ledger check": "umrgen ledger check --json",
    "ledger backup": "umrgen ledger backup ledger-copy.sqlite3",
    "ledger copy": "umrgen ledger copy ledger.sqlite3 postgresql://umrgen@db.example.org/umrgen",
    "ledger vacuum": "umrgen ledger vacuum",
}


def add_examples(name: str, command: click.Command) -> None:
    """Add the example of a command to its help, and those of its subcommands to theirs."""
    if name in EXAMPLES:
        command.epilog = f"\b\nExample:\n  {EXAMPLES[name]}"
    for inner, subcommand in getattr(command, "commands", {}).items():
        add_examples(f"{name} {inner}", subcommand)
