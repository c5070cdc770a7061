"""What ``Fit.check`` gives: findings, each with what to do about it, and what was looked into and found in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from jaxmm._text import Printed, as_text
from jaxmm.frames import as_backend

PROBLEM, CAUTION, NOTE = "problem", "caution", "note"
RANK = {PROBLEM: 0, CAUTION: 1, NOTE: 2}


@dataclass(frozen=True)
class Finding:
    """``name`` of what was looked into; ``severity``: "problem" (numbers of the fit are not to be used as they are),
    "caution" (some of them may mislead) or "note"; ``text`` says what is the matter, ``advice`` what to do.

    Example:
        >>> [f.severity for f in fit.check() if f.severity == "problem"]
        []
    """

    name: str
    severity: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return as_text(self.sentences())

    def sentences(self) -> list[str]:
        """As it is printed: the text, and below it the advice."""
        return [f"- {self.severity}: {self.text}", *([f"  -> {self.advice}"] if self.advice else [])]


@dataclass(frozen=True, repr=False)
class Check(Printed, Sequence[Finding]):
    """A sequence of findings, the gravest first; print it.

    Attributes:
        formula: of the fit.
        findings: what is the matter.
        looked_into: name -> one sentence on what was looked at, of everything, also where nothing was found.
        skipped: name -> why it could not be looked into.

    Example:
        >>> found = fit.check()
        >>> len(found.looked_into) > 5
        True
    """

    formula: str
    findings: tuple[Finding, ...]
    looked_into: dict[str, str]
    skipped: dict[str, str]

    def __getitem__(self, k):
        return self.findings[k]

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    @property
    def ok(self) -> bool:
        """Whether nothing graver than a note was found."""
        return all(f.severity == NOTE for f in self.findings)

    @property
    def in_order(self) -> list[str]:
        """What was looked into without a finding."""
        found = {f.name for f in self.findings}
        return [name for name in self.looked_into if name not in found]

    def to_frame(self, backend: str = "pandas") -> pd.DataFrame:
        """A row for each finding: name, severity, text, advice. ``backend``: "pandas" or "polars"."""
        columns = ["name", "severity", "text", "advice"]
        table = pd.DataFrame([[getattr(f, c) for c in columns] for f in self.findings], columns=columns)
        return as_backend(table, backend)

    def _parts(self) -> list[str]:
        out = [f"Check of {self.formula}"]
        for f in self.findings:
            out += f.sentences()
        if not self.findings:
            out.append("nothing found")
        for head, entries in (
            ("In order", [f"{name} ({self.looked_into[name]})" for name in self.in_order]),
            ("Not looked into", [f"{name}: {why}" for name, why in self.skipped.items()]),
        ):
            if entries:
                out.append(f"{head}: {'; '.join(entries)}")
        return out
