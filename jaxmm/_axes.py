"""What pictures share: colours that every eye tells apart (Okabe & Ito 2008), plain axes, matplotlib."""

from typing import Any

from jaxmm.links import Identity

OWN, BLUP, POPULATION, DATA = "#d55e00", "#0072b2", "#222222", "#8a8a8a"
SEVERAL = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222")
STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))  # so that lines are told apart in grey too
NAMED = 60  # with more levels than this they are drawn small and without names


def scale_of(fit: Any) -> str:
    """In which unit effects are: that of the response, or on the scale of the link."""
    link, response = fit.family.link, fit.model.design.response
    return f"({response})" if isinstance(link, Identity) else f"({link.name} of {response})"


def plain(axis: Any) -> None:
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install jaxmm[plot]") from error
    return plt
