"""The measures pass what every metric must, with values found from the files by hand."""

import numpy as np
import pytest

from gemcore.testing import MetricConformance

HOME = "law"


def domain_scores(results):
    """The mean chance-normalised score of each domain, without GEM's analysis."""
    by_domain = {}
    for task, config in results["configs"].items():
        if config["task_type"] == "corpus":
            continue
        score = results["results"][task][f"{config['main_metric']},none"]
        chance = config["chance"]
        by_domain.setdefault(config["domain"], []).append((score - chance) / (1 - chance))
    return {domain: float(np.mean(scores)) for domain, scores in by_domain.items()}


def expected(name, base, special):
    """A measure by its definition in docs/tradeoff.md."""
    before, after = domain_scores(base), domain_scores(special)
    gain = {domain: (after[domain] - before[domain]) / before[domain] for domain in before}
    away = [domain for domain in before if domain != HOME]
    if name == "dsi":
        return gain[HOME] - np.mean([gain[d] for d in away])
    if name == "gg":
        return (after[HOME] - np.mean([after[d] for d in away])) - (
            before[HOME] - np.mean([before[d] for d in away])
        )
    if name == "cdtr":
        return np.mean([after[d] / before[d] for d in away])
    return np.mean([max(0.0, -gain[d]) for d in away])


@pytest.mark.parametrize("name", ["dsi", "gg", "cdtr", "forgetting"])
class TestMeasures(MetricConformance):
    needs = ("base", "specialised")

    @pytest.fixture(autouse=True)
    def chosen(self, name, make):
        self.plugin = f"{name}:resamples=150"
        base, special = make(0), make(1, own=HOME)
        self.known = [
            ({"base": base, "specialised": special}, float(expected(name, base, special)))
        ]

    def shuffled(self, results, generator):
        """The tasks of each file in another order; its items are paired with those of the other."""
        found = {}
        for name, content in results.items():
            tasks = list(content["samples"])
            generator.shuffle(tasks)
            found[name] = {
                key: {task: part[task] for task in tasks if task in part}
                if isinstance(part, dict) and set(part) == set(tasks)
                else part
                for key, part in content.items()
            }
        return found
