# SPDX-License-Identifier: Apache-2.0
"""What was measured, next to what it is compared with: samples, ratios, criteria, and the table."""

import math
import statistics

UNITS = {"us": 1e3, "ms": 1e6, "ns": 1.0, "MiB": float(1 << 20)}  # samples are in ns, or bytes


class Samples:
    """One quantity, measured several times (in ns or bytes)."""

    def __init__(self, what, values):
        if not values:
            raise ValueError(f"{what}: nothing was measured")
        self.what, self.values = what, list(values)

    @property
    def median(self):
        return statistics.median(self.values)

    @property
    def p99(self):
        """Nearest rank: the greatest of fewer than 100 values."""
        return sorted(self.values)[math.ceil(0.99 * len(self.values)) - 1]

    def dict(self):
        return {"what": self.what, "n": len(self.values), "median": self.median,
                "min": min(self.values), "p99": self.p99}

    def text(self, unit):
        by = UNITS[unit]
        return " ".join((digits(self.median / by),
                         f"({digits(min(self.values) / by)}/{digits(self.p99 / by)})"))


class Figure:
    """`samples`, compared with `against`; `allowed` is the criterion's bound on the median.

    Without `allowed` it is there to be known, and no verdict is given.
    """

    def __init__(self, name, unit, samples, against=None, allowed=None, criterion=None):
        self.name, self.unit, self.samples, self.against = name, unit, samples, against
        self.allowed, self.criterion = allowed, criterion

    @property
    def met(self):
        return None if self.allowed is None else self.samples.median <= self.allowed

    @property
    def ratio(self):
        if self.against is None or not self.against.median:
            return None
        return self.samples.median / self.against.median

    def dict(self):
        return {"name": self.name, "unit": "bytes" if self.unit == "MiB" else "ns",
                **self.samples.dict(), "against": self.against and self.against.dict(),
                "ratio": self.ratio, "allowed": self.allowed, "criterion": self.criterion,
                "met": self.met}

    def row(self):
        verdict = {None: "", True: "met", False: "NOT met"}[self.met]
        return (self.name, f"{self.samples.text(self.unit)} {self.unit}",
                f"{self.against.what} {self.against.text(self.unit)}" if self.against else "",
                "" if self.ratio is None else f"{self.ratio:.2f}",
                "" if self.allowed is None else digits(self.allowed / UNITS[self.unit]), verdict)


def digits(x):
    """Three of them."""
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.1f}" if abs(x) >= 10 else f"{x:.2f}"


HEAD = ("figure", "median (min/p99)", "against", "ratio", "allowed", "")


def table(figures):
    rows = [HEAD, *(figure.row() for figure in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip()
                     for row in rows)
