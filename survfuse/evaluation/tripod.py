"""Which items of TRIPOD+AI a page answers, and where (Collins et al. 2024, BMJ 385:e078378)."""

from typing import NamedTuple


class Item(NamedTuple):
    """One item of the checklist that a page answers."""

    number: str
    asks: str  # in short
    anchors: tuple[tuple[str, str], ...]  # (id of the section, its name)


_PERFORMANCE = (
    ("ranking", "Ranking"),
    ("groups", "Risk groups"),
)
_SURVIVAL = (("survival", "Predicted survival"), ("decision", "Net benefit"))


def external_items(with_survival: bool, with_subgroups: bool) -> list[Item]:
    """The items that the page on an external cohort answers."""
    shown = _PERFORMANCE + (_SURVIVAL if with_survival else ())
    subgroups = (("subgroups", "Subgroups"),) if with_subgroups else ()
    items = [
        Item("12e", "measures and plots of performance", shown),
        Item("20a", "participants, and how many had the outcome", (("cohort", "The patients"),)),
        Item("21", "participants and events in each analysis", (("cohort", "The patients"), *subgroups)),
        Item("23a", "performance with intervals, and in subgroups", (*shown, *subgroups)),
    ]
    return (
        [items[0], Item("14", "differences between groups of patients", subgroups), *items[1:]] if subgroups else items
    )


def training_items(with_losses: bool, with_families: bool) -> list[Item]:
    """The items that the training report answers."""
    losses = (("losses", "Loss curves"),) if with_losses else ()
    families = (("families", "Families"),) if with_families else ()
    run = (("run", "The run"),)
    shown = (*_PERFORMANCE, *_SURVIVAL)
    return [
        Item("12a", "how the data were divided", (("folds", "Outer folds"), *run)),
        Item("12c", "type of model, building and choice of its settings", (*run, *losses)),
        Item("12e", "measures and plots of performance, comparison of models", (*shown, *families)),
        Item("20a", "participants, and how many had the outcome", (("cohort", "The patients"),)),
        Item("21", "participants and events in each analysis", (("folds", "Outer folds"),)),
        Item("22", "the model: families and their weights", (*families, *run)),
        Item("23a", "performance with intervals", shown),
    ]
