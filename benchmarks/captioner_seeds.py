"""The captioner recipe with several seeds, on Flickr8k's judged photos: what consensus and reward each bring.

For each seed two trainings: recipes/caption_flickr8k.toml as it is, of which the captioner after its first stage
(cross-entropy weighted by consensus) and the finished one are scored, and its first stage without the weights, which is
plain cross-entropy. Measures are those of captioner_rewards.py.

    python -m benchmarks.captioner_seeds --seeds 0 1 2      # trains and scores what is missing: hours; prints tables
    python -m benchmarks.captioner_seeds --tables             # only the tables, from what is there
"""

import dataclasses
from pathlib import Path

import torch
from benchmarks.captioner_rewards import FIRST, Experiment, experiment_parser, slug
from benchmarks.captioner_tables import print_gains, print_scores, read_runs

from cliplet.models.captioner import load_decoder
from cliplet.training.captioner.config import CaptionRecipe, load_caption_recipe
from cliplet.training.captioner.train import CaptionRun

RECIPE = Path("recipes/caption_flickr8k.toml")
CONSENSUS, REWARD = "cross-entropy by consensus", "then the reward"
ROWS = (FIRST, CONSENSUS, REWARD)


class Seeds(Experiment):
    """Trains and scores what is missing below ``out``."""

    def recipe(self, variant: str, seed: int) -> CaptionRecipe:
        """The recipe of a seed, or its first stage without consensus for plain cross-entropy."""
        base = load_caption_recipe(self.path, self.changes)
        if variant == FIRST:
            plain = dataclasses.replace(base.stages[0], consensus=0.0)
            return dataclasses.replace(
                base, seed=seed, out=str(self.out / f"plain-run{seed}"), stages=(plain,)
            )
        return dataclasses.replace(base, seed=seed, out=str(self.out / f"run{seed}"))

    def run(self, variant: str, seed: int) -> None:
        """Train and score one, unless that is done."""
        folder = self.out / f"{slug(variant)}-seed{seed}"
        if (folder / "judged.json").exists():
            return
        recipe = self.recipe(variant, seed)
        run = CaptionRun(recipe)
        run.train()
        stage = len(recipe.stages) - 1 if variant == REWARD else 0
        run.decoder.load_state_dict(load_decoder(run._folder(stage) / "best").state_dict())
        self.judge(run, folder, {"variant": variant, "seed": seed})


def main() -> None:
    arguments = experiment_parser(__doc__, "runs/captioner_seeds", RECIPE, ROWS).parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if not arguments.tables:
        experiment = Seeds(arguments.out, arguments.changes, recipe=arguments.recipe, data=arguments.data)
        for seed in arguments.seeds:
            for variant in arguments.only:
                experiment.run(variant, seed)
    runs = read_runs(arguments.out, {row: slug(row) for row in ROWS})
    print_scores(runs, arguments.out)
    print_gains(runs)
    if CONSENSUS in runs:
        print_gains({row: runs[row] for row in (CONSENSUS, REWARD) if row in runs})
    print(
        f"\nReward model: {', '.join(sorted({run['reward_model'] for group in runs.values() for run in group}))}"
    )


if __name__ == "__main__":
    main()
