"""Clinical variables of simulated patients, named and coded as CHIMERA Task 3 publishes its own."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from survfuse.tasks.task import SimulatedTraits


def simulated_variables(traits: "SimulatedTraits", random: "np.random.Generator") -> list[dict[str, str | int]]:
    """One object of clinical variables for each of n patients; -1 stands for an unknown value."""
    import numpy as np

    number = len(traits.age)

    def drawn(categories: tuple[str, ...], shares: tuple[float, ...]) -> list[str]:
        chosen: list[str] = random.choice(categories, size=number, p=shares).tolist()
        return chosen

    instillations = np.clip(np.rint(random.normal(20.0, 8.0, number)), 5, 40).astype(int)
    instillations[random.random(number) < 0.05] = -1
    age = np.clip(np.rint(68.9 + 9.0 * traits.age), 30, 95).astype(int)
    substage = np.where(traits.advanced, drawn(("T1e", "T1m", "-1"), (0.45, 0.35, 0.20)), "-1").tolist()
    lvi = np.where(random.random(number) < 0.2, "-1", np.where(traits.invasive, "Yes", "No")).tolist()
    subtype = 1 + np.digitize(traits.programme + 0.5 * random.standard_normal(number), (-0.4, 0.6))
    sex, smoking = drawn(("Male", "Female"), (0.79, 0.21)), drawn(("Yes", "No", "-1"), (0.55, 0.35, 0.10))
    grade, again = drawn(("G3", "G2"), (0.9, 0.1)), drawn(("Yes", "No"), (0.7, 0.3))
    variant, eortc = drawn(("UCC", "UCC + Variant"), (0.87, 0.13)), drawn(("High risk", "Highest risk"), (0.6, 0.4))
    return [
        {
            "age": int(age[place]),
            "no_instillations": int(instillations[place]),
            "sex": sex[place],
            "smoking": smoking[place],
            "tumor": "Primary",
            "stage": "T1HG" if traits.advanced[place] else "TaHG",
            "substage": substage[place],
            "grade": grade[place],
            "reTUR": again[place],
            "LVI": lvi[place],
            "variant": variant[place],
            "EORTC": eortc[place],
            "BRS": f"BRS{subtype[place]}",
        }
        for place in range(number)
    ]
