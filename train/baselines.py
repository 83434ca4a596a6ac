"""Train a classifier that sees the whole canvas: `python train/baselines.py --model fc256`.

Glimpse agents are compared with it. It trains on the canvases that `train/reinforce.py` shows its
agent with the same seed and `num_envs`, in the same order; validation and test use the same frozen
ones. The paragraphs of `train` are the algorithm.

Dimension key:
    N: canvases of a batch, one per sub-environment
    C, H: colour planes, canvas side [px]
    K: classes
"""

from __future__ import annotations

from train import startup  # noqa: F401 - before slow imports

# isort: split
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from agents.baselines import BASELINES, make_baseline, multiply_adds
from agents.evaluation import Score
from agents.runs.commands import Stop, parse_flags, run
from agents.runs.folder import RunLog, run_in_folder
from agents.training import (
    Training,
    check_finite,
    check_settings,
    choose_device,
    clip_gradients,
    cosine_rate,
    spread_seed,
    warmed_up_decay,
)
from ram_env import GlimpseVectorEnv
from ram_env.tasks import ImageTask, Task
from train.keywords import TaskConfig, make_vector_env
from train.session import NUM_ENVS, Session, describe


@dataclass(frozen=True)
class Config(TaskConfig):
    """Settings of a run; every one is a flag."""

    model: Literal[tuple(BASELINES)] = "fc256"  # pyright: ignore[reportInvalidTypeForm]
    """Network to train: see agents/baselines.py."""
    total_episodes: int = 2_200_000
    """Number of training canvases. The learning rate's schedule ends with the last one."""
    num_envs: int = 128
    """Batch size: canvases per update."""
    learning_rate: float = 1e-3
    """Learning rate at the start. It falls to 0 along half a cosine."""
    ema: float = 0.999
    """Decay of the running mean of the weights. The mean is what is validated and stored."""
    bf16: bool = False
    """Compute the network in bfloat16 during training if the hardware has it, which is faster."""

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        if not isinstance(task := self.task, ImageTask) or task.canvas_size % 2:
            raise ValueError(
                "env_id must name a task of labelled images on canvases with an even size, such as "
                f"MNISTGlimpse-v0, got {task}"
            )
        if unused := sorted(self.keywords.keys() & {field.name for field in fields(Task)}):
            raise ValueError(
                f"env_kwargs must leave out {unused}: a network sees the whole canvas once"
            )
        counts = ("total_episodes", "num_envs")
        bounds = {"at least 1": counts, "positive": ("learning_rate",), "in [0, 1)": ("ema",)}
        check_settings(self, bounds)

    keep = "best"  # of the weights; not a flag


def main(config: Config) -> None:
    """Train, or resume training, in the run folder."""
    run_in_folder(config, f"{config.env_id}_{config.model}", train)


def train(config: Config, log: RunLog, stop: Stop) -> None:
    """Train with regular validation, and evaluate the best model once on the final split."""
    # Setup
    device = choose_device(config.device)
    torch.set_num_threads(config.threads)
    torch.backends.cudnn.deterministic = True  # the same command gives the same bytes
    env_seeds, torch_seed = spread_seed(config.seed, config.num_envs)
    torch.manual_seed(torch_seed)
    make = partial(make_env, config, device)
    env = make(config.num_envs, split="train")
    validation_env = make(NUM_ENVS, split="validation", order="sequential")
    config.open_final_split()
    model = make_baseline(config.model, *env.glimpse_shape[:2], env.num_classes).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    training = Training(model, optimizer, env)
    judge = partial(evaluate, training.mean_model, device=device, on_batch=stop.check)
    num_updates = math.ceil(config.total_episodes / config.num_envs)
    validation = partial(validate, judge, validation_env)
    said = config.num_envs, "canvases"
    session = Session(config, log, stop, training, validation, num_updates, config.num_envs, said)
    bf16 = describe(config, log, env, device, model)
    work, pixels = multiply_adds(model, env.glimpse_shape), math.prod(env.glimpse_shape)
    log.say(f"{config.model}: a decision takes {work} multiply-adds and sees {pixels} pixels")
    session.resume()

    for update in session.updates():
        learning_rate = cosine_rate(config.learning_rate, update / num_updates)
        optimizer.param_groups[0]["lr"] = learning_rate

        # Batch: every sub-environment draws its next canvas
        canvases, labels = draw(env, device, seed=env_seeds if update == 0 else None)

        # Loss
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(canvases)  # (N, K)
        loss = functional.cross_entropy(logits.float(), labels)

        # Update
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(model, math.inf, update, {"loss": loss})  # only checks that all is finite
        optimizer.step()
        check_finite(update, dict(model.named_parameters()))
        training.move_mean(warmed_up_decay(config.ema, update))

        # Log
        num_canvases = (update + 1) * config.num_envs
        accuracy = (logits.argmax(1) == labels).double().mean()
        log.status(num_canvases, accuracy)
        if session.logs(update):
            metrics = {"rollout/ep_rew_mean": accuracy.item(), "train/classifier_loss": loss.item()}
            log.scalars(num_canvases, {**metrics, "train/learning_rate": learning_rate})
            log.speed(num_canvases)

    # Result
    training.mean_model.load_state_dict(training.best)
    session.finish(make, lambda env: (judge(env), {}))


def validate(
    judge: Callable[[GlimpseVectorEnv], Score], env: GlimpseVectorEnv, updates_done: int
) -> tuple[Score, dict[str, float]]:
    """Return the score and both errors of a comparison, since a classifier samples nothing."""
    score = judge(env)
    return score, dict.fromkeys(("eval/error", "eval/error_sampled"), score.error)


def make_env(config: Config, device: torch.device, num_envs: int, **more: Any) -> GlimpseVectorEnv:
    """Make the environment with one glimpse as large as the canvas: see :func:`draw`."""
    more |= {"glimpse_size": config.task.side, "num_scales": 1, "num_glimpses": 1}
    more |= {"device": None if device.type == "cpu" else str(device)}
    return make_vector_env(config.env_id, num_envs, **{**config.keywords, **more})


def draw(
    env: GlimpseVectorEnv, device: torch.device, seed: list[int] | int | None = None
) -> tuple[Tensor, Tensor]:
    """Begin the next episode of every sub-environment and look at its whole canvas.

    A canvas doesn't depend on what is seen of it, so these are also the canvases of the same
    episodes in the agent's environment. Return canvases in [0, 1], (N, C, H, H), float32, and
    labels, (N,), int64.
    """
    obs, infos = env.reset(seed=seed, options={"location": (0.0, 0.0)})
    canvases = torch.as_tensor(obs["glimpse"], device=device)
    return canvases, torch.as_tensor(infos["label"], device=device)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    env: GlimpseVectorEnv,
    device: torch.device,
    on_batch: Callable[[], None] = lambda: None,
) -> Score:
    """Classify every canvas of a split once, in an env with ``order="sequential"``."""
    wrong, total = 0, env.num_images
    for visited in range(0, total, env.num_envs):
        canvases, labels = draw(env, device, seed=None if visited else 0)
        misclassified = model(canvases).argmax(1) != labels  # (N,)
        wrong += int(misclassified[: total - visited].sum())
        on_batch()
    return Score(wrong, total)


parse = partial(parse_flags, Config)
"""Returns the settings of a command line, or of the run that it resumes."""


if __name__ == "__main__":
    run(main, parse)
