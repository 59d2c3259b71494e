"""Examples of each command, for its help."""

import click

__all__ = ["EXAMPLES", "add_examples", "examples_of"]

EXAMPLES: dict[str, str | tuple[str, ...]] = {
    "login": (
        "umrgen login",
        "umrgen login --profile work",
        "umrgen login --base-url https://umrgen.example.org --api-key-file key.txt",
    ),
    "logout": "umrgen logout --profile work",
    "generate": (
        'umrgen generate "a lighthouse at dusk" -o lighthouse.png --seed 7',
        'umrgen generate "a boat" -n 8 -o boats.png --ratio 16:9',
        'umrgen generate "the same in winter" --reference lighthouse.png --no-display',
    ),
    "submit": 'umrgen submit "a lighthouse at dusk" --steps 8',
    "status": "umrgen status ext_0123 --json",
    "watch": "umrgen watch ext_0123 --events",
    "wait": "umrgen wait ext_0123 ext_0124 --timeout 120",
    "fetch": (
        "umrgen fetch ext_0123 -o - > lighthouse.png",
        "umrgen fetch ext_0123 -o lighthouse.png --overwrite",
    ),
    "cancel": "umrgen cancel ext_0123",
    "delete": "umrgen delete ext_0123 ext_0124",
    "upload": (
        "umrgen upload sketch.png",
        "umrgen upload --list",
        "umrgen upload --delete ref_0123.png",
    ),
    "jobs": (
        "umrgen jobs --state failed --limit 5",
        "umrgen jobs --search 'lighthouse dusk' --after 2026-11-01",
        "umrgen jobs --all --json",
        "umrgen jobs --local",
    ),
    "show": "umrgen show lighthouse.png",
    "verify": "umrgen verify lighthouse.png --json",
    "resume": (
        "umrgen resume --all",
        "umrgen resume ext_0123 -o lighthouse.png",
    ),
    "forget": "umrgen forget ext_0123",
    "bench": "umrgen bench --callers 4 --images 40 --width 512 --height 512",
    "config": "umrgen config show",
    "config show": (
        "umrgen config show --all",
        "umrgen config show --config umrgen.toml --json",
    ),
    "config check": "umrgen config check umrgen.toml",
    "completion": (
        'eval "$(umrgen completion bash)"',
        "umrgen completion fish > ~/.config/fish/completions/umrgen.fish",
    ),
    "doctor": (
        "umrgen doctor --draw",
        "umrgen doctor --profile work",
    ),
    "mcp": "umrgen mcp --folder ~/Pictures/umrgen",
    "setup": "umrgen setup --yes",
    "serve": (
        "umrgen serve --port 3088 --state /var/lib/umrgen",
        "umrgen serve --model http://127.0.0.1:8188",
    ),
    "studio": "umrgen studio --open",
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
    "keys rotate": "umrgen keys rotate key_0123 --grace 12h",
    "keys limits": "umrgen keys limits key_0123 --rate 120 --daily default",
    "keys revoke": "umrgen keys revoke key_0123",
    "ledger": "umrgen ledger backup ledger-copy.sqlite3",
    "ledger adopt": "umrgen ledger adopt --state /var/lib/umrgen",
    "ledger check": "umrgen ledger check --json",
    "ledger backup": "umrgen ledger backup /var/backups/umrgen --keep 14",
    "ledger restore": "umrgen ledger restore /var/backups/umrgen/ledger-20270131T020000000000Z.sqlite3",
    "ledger copy": "umrgen ledger copy ledger.sqlite3 postgresql://umrgen@db.example.org/umrgen",
    "ledger vacuum": "umrgen ledger vacuum",
}


def examples_of(name: str) -> tuple[str, ...]:
    """Return the examples of a command; none for an unknown one."""
    found = EXAMPLES.get(name, ())
    return (found,) if isinstance(found, str) else found


def add_examples(name: str, command: click.Command) -> None:
    """Add the examples of a command to its help, and those of its subcommands to theirs."""
    if examples := examples_of(name):
        lines = "".join(f"\n  {example}" for example in examples)
        command.epilog = f"\b\nExample{'s' if len(examples) > 1 else ''}:{lines}"
    for inner, subcommand in getattr(command, "commands", {}).items():
        add_examples(f"{name} {inner}", subcommand)
