"""xmlkit explain: what an id means and what to do."""

from __future__ import annotations

import click

from xmlkit.rules import RULES


@click.command(name="explain")
@click.argument("id", required=False)
def command(id: str | None) -> None:
    """Explain an id that xmlkit printed; without one, list them all.

    \b
    Exit code: 0, or 2 for an id that does not exist.

    \b
    Example:
        xmlkit explain format-disagrees
    """
    if id is None:
        width = max(map(len, RULES))
        for rule in sorted(RULES.values(), key=lambda rule: rule.id):
            click.echo(f"{rule.id:<{width}}  {rule.title}")
        return
    found = RULES.get(id.lower())
    if found is None:
        import difflib

        near = difflib.get_close_matches(id.lower(), RULES, n=3)
        meant = f"; did you mean {' or '.join(near)}?" if near else "; xmlkit explain lists them"
        raise click.UsageError(f"no id {id!r}{meant}")
    click.echo(f"{found.id}: {found.title}\n")
    accept = f"; --accept {found.id} makes it a warning" if found.acceptable else ""
    for label, text in (
        ("Severity", found.severity + accept),
        ("Why", found.why),
        ("What to do", found.remedy),
        ("Source", found.source),
        ("Seen on libvirt", ", ".join(found.seen)),
    ):
        if text:
            click.echo(click.wrap_text(f"{label}: {text}", 80, subsequent_indent="  "))
