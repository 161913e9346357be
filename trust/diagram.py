"""The unit's state machine as a Mermaid diagram, generated from ``decide.TRANSITIONS`` for the documentation.

Invariant: it shows exactly the transitions that ``decide`` allows; rules that stay in their state are left out.
"""

from __future__ import annotations

from collections import defaultdict

from muster.trust.decide import TRANSITIONS


def mermaid() -> str:
    """Mermaid source, one arrow for each pair of states, labelled with the events that may lead there."""
    arrows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for state, rules in TRANSITIONS.items():
        for event, rule in rules.items():
            for to in rule.to:
                if to is not state:
                    arrows[state.value, to.value].append(event.__name__)
    lines = [f"    {a} --> {b}: {', '.join(sorted(events))}" for (a, b), events in sorted(arrows.items())]
    return "\n".join(["stateDiagram-v2", "    [*] --> open", *lines])
