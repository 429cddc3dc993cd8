"""The section of a card that tells how to ask what members decided.

A card is among the files that members vote on, so it is older than each vote and can
tell no outcome: what it said would be false for one half of its time.
"""

from typing import Literal

_SECTION = """\
## Standing

{whose} Members vote in the federation's log, after this card was written, and may
withdraw what they approved: so no card says how that ended. Ask the log:

```
tapestry {kind} verify {kind}s/{name} --bundle bundle --trust trust-policy.txt
```

It prints `candidate`, `approved` or `withdrawn`, who voted yes and who no, how many
yes votes it takes, and the entry that decided. Status 0 says that it may be used; 5
that it is a candidate, or was withdrawn for a reason that the members' policy refuses.
`trust-policy.txt` is the one that you hold; where `bundle/` lies beside `{kind}s/`,
leave `--bundle` out."""


def standing_section(
    kind: Literal["release", "adapter"], name: str, *, base: str | None = None
) -> str:
    """Return the section of a release's or an adapter's card.

    Args:
        kind: Of the folder that the card lies in.
        name: Of the release or adapter.
        base: The release that an adapter belongs to.
    """
    whose = "This base is a candidate until the institutions have approved it."
    if base is not None:
        whose = (
            f"No vote approves an adapter: it is its publisher's, and stands with its"
            f" base\n`{base}`, which is a candidate until the institutions have"
            " approved it."
        )
    return _SECTION.format(whose=whose, kind=kind, name=name)
