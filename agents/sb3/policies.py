"""The glimpse agent for Stable-Baselines3: the paper's glimpse network and a hybrid action.

An action of the ``Box`` format is a location (x, y) and a score per class; the first highest score
is the label. Stable-Baselines3 would model it as one Gaussian over 2 + K numbers. Here a label c is
sampled and packed as +1 at c and -1 elsewhere, which survives the clipping to [-1, 1].

Dimension key:
    N: samples (lanes, or steps of a minibatch)
    P, G: glimpse planes (scales x colours), glimpse side [px]
    D: size of the joined glimpse vector
    K: classes
    F: features that the heads see
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

from agents.ram import GlimpseNetwork, RAMConfig


class GlimpseFeatures(BaseFeaturesExtractor):
    """Features of the current step: the paper's glimpse vector g_t, and the time.

    The time is ours: the value depends on the number of glimpses left.

    Args:
        observation_space: The environment's, with ``glimpse``, ``location`` and ``time``.
        **sizes: ``what_size``, ``where_size``, ``hidden_size`` and ``conv_features`` of
            :class:`agents.ram.RAMConfig`; its other settings have no effect.

    Source:
        Mnih et al. (2014), arXiv:1406.6247, section 4 "Glimpse network".
    """

    def __init__(self, observation_space: spaces.Dict, **sizes: Any):
        require_keys(observation_space, ("glimpse", "location", "time"))
        shape: Any = observation_space["glimpse"].shape  # (P, G, G)
        network = GlimpseNetwork(RAMConfig(shape, 1, **sizes))
        super().__init__(observation_space, network.join_what.out_features + 1)
        self.glimpse_network = network

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Map ``glimpse`` (N, P, G, G), ``location`` (N, 2) and ``time`` (N, 1) to (N, F)."""
        g = self.glimpse_network(observations["glimpse"], observations["location"])  # (N, D)
        return torch.cat((g, observations["time"]), 1)


class HybridHead(nn.Module):
    """The policy's last layer: label logits, and a mean that a tanh keeps in the image (paper)."""

    def __init__(self, num_features: int, num_classes: int):
        super().__init__()
        self.location = nn.Linear(num_features, 2)
        self.label = nn.Linear(num_features, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, F) to mean and logits side by side, (N, 2 + K)."""
        return torch.cat((torch.tanh(self.location(features)), self.label(features)), 1)


class HybridDistribution(DiagGaussianDistribution):
    """A Gaussian location and a categorical label, each counted only where it has an effect.

    An episode scores its last label and never uses its last location. So where the time is 1, the
    log-probability and the entropy are the label's; earlier they are the location's, as sampled:
    clipping it to the image is part of the environment's dynamics.

    Args:
        num_classes: K.
        label_counts: ``"last"`` as above; ``"every"`` also counts the labels before the last, for
            rewards that score each of them (``reward="dense"``).
        location_weight: Factor on the location's log-probability, and so on its policy gradient.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        label_counts: Literal["last", "every"] = "last",
        location_weight: float = 1.0,
    ):
        if label_counts not in ("last", "every"):
            raise ValueError(f"label_counts must be 'last' or 'every', got {label_counts!r}")
        super().__init__(2 + num_classes)
        self._num_classes = num_classes
        self._every = label_counts == "every"
        self._weight = location_weight
        self._time: Tensor | None = None

    def proba_distribution_net(self, latent_dim: int, log_std_init: float = 0.0) -> Any:
        """Make the head and the logarithm of the location's std, (2,), a parameter."""
        head = HybridHead(latent_dim, self._num_classes)
        return head, nn.Parameter(torch.full((2,), log_std_init))

    def set_time(self, time: Tensor) -> None:
        """Set the time (N, 1) of the samples, in [0, 1], for the next ``proba_distribution``."""
        if ((time < 0) | (time > 1)).any():
            raise ValueError(
                "the observation's time must be in [0, 1], since it says when a label is scored, "
                f"got {time.min():g} to {time.max():g}: pass norm_obs=False to VecNormalize"
            )
        self._time = time

    def proba_distribution(self, mean_actions: Tensor, log_std: Tensor) -> HybridDistribution:
        """Set the parameters: mean and logits (N, 2 + K), and the log std (2,)."""
        assert self._time is not None, "call set_time before each proba_distribution"
        mean, logits = mean_actions[:, :2], mean_actions[:, 2:]
        self.location = Normal(mean, log_std.exp().expand_as(mean))
        self.label = Categorical(logits=logits)
        self.is_last = self._time[:, 0] >= 1  # (N,), of its episode
        self._time = None
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the weighted log-probability (N,) of what counts in packed actions (N, 2 + K)."""
        location, label = unpack_action(actions)
        of_location = self._weight * self.location.log_prob(location).sum(1)
        return self._counted(of_location, self.label.log_prob(label))

    def entropy(self) -> Tensor:
        """Return the entropy (N,) of the parts that count."""
        return self._counted(self.location.entropy().sum(1), self.label.entropy())

    def sample(self) -> Tensor:
        """Draw packed actions (N, 2 + K), without gradient."""
        return pack_action(self.location.sample(), self.label.sample(), self._num_classes)

    def mode(self) -> Tensor:
        """Return the mean location and the likeliest label, packed, (N, 2 + K)."""
        return pack_action(self.location.mean, self.label.logits.argmax(1), self._num_classes)

    def _counted(self, location: Tensor, label: Tensor) -> Tensor:
        """Select from the values of location and label, both (N,), what counts at each sample."""
        return torch.where(self.is_last, label, location + label if self._every else location)


class HybridPolicy(ActorCriticPolicy):
    """Actor and critic of the glimpse agent for Stable-Baselines3's PPO and A2C.

    By default the heads lie directly on :class:`GlimpseFeatures` (``net_arch=[]``, as in the
    paper), which sees only the current glimpse. For an agent that remembers, use
    :class:`agents.sb3.HistoryFeatures` as features extractor, or RecurrentPPO with
    :class:`agents.sb3.recurrent.RecurrentHybridPolicy`::

        env = gymnasium.make_vec("MNISTGlimpse-v0", num_envs=64)
        lanes = GlimpseVecEnv(VectorGlimpseHistory(env))
        settings = {"num_classes": env.num_classes, "features_extractor_class": HistoryFeatures}
        PPO(HybridPolicy, lanes, n_steps=28, batch_size=448, policy_kwargs=settings)

    Where every step pays (``reward="dense"``), pass ``label_counts="every"``: by default only the
    last label is an action.

    Args:
        observation_space: A ``Dict`` with ``time`` (1,), which is 1 where a label is scored.
        action_space: A ``Box`` of 2 + K numbers (``action_format="box"``).
        lr_schedule: Learning rate as a function of the remaining progress.
        num_classes: K, the environment's. With ``allow_stop`` the action space has one number more
            and is refused.
        initial_std: Initial std of the location, in units of half an image; it is learned.
        label_counts: See :class:`HybridDistribution`.
        location_weight: See :class:`HybridDistribution`.
        **kwargs: Arguments of ``ActorCriticPolicy`` except ``log_std_init`` and ``use_sde``.

    Raises:
        ValueError: If a space or a value is not allowed.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Any,
        *,
        num_classes: int,
        initial_std: float = 0.22,
        label_counts: Literal["last", "every"] = "last",
        location_weight: float = 1.0,
        **kwargs: Any,
    ):
        require_keys(observation_space, ("time",))
        if not 0 < initial_std < math.inf:
            raise ValueError(f"initial_std must be positive, got {initial_std}")
        box: Any = action_space
        is_box = isinstance(box, spaces.Box) and box.shape == (2 + num_classes,)
        if not is_box or (box.low > -1).any() or (box.high < 1).any():
            raise ValueError(
                f"action_space must be a Box of 2 + num_classes = {2 + num_classes} numbers that "
                f"contains -1 and 1, got {action_space}: pass the environment's num_classes, and "
                "make it with action_format='box' and without allow_stop"
            )
        self._hybrid: Any = {"num_classes": num_classes, "label_counts": label_counts}
        self._hybrid["location_weight"] = location_weight
        kwargs = {"features_extractor_class": GlimpseFeatures, "net_arch": [], **kwargs}
        spaces_and_rate = observation_space, action_space, lr_schedule
        super().__init__(*spaces_and_rate, log_std_init=math.log(initial_std), **kwargs)

    def _build(self, lr_schedule: Any) -> None:
        self.action_dist = HybridDistribution(**self._hybrid)
        super()._build(lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()
        std = math.exp(parameters.pop("log_std_init"))
        return {**parameters, **self._hybrid, "initial_std": std}

    # All ways to the distribution pass through one of these two.

    def extract_features(self, obs: Any, *args: Any, **kwargs: Any) -> Any:
        """Extract features to act on or to evaluate: see ``ActorCriticPolicy``."""
        self.action_dist.set_time(obs["time"])  # pyright: ignore[reportAttributeAccessIssue]
        return super().extract_features(obs, *args, **kwargs)

    def get_distribution(self, obs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the actions' distribution: see ``ActorCriticPolicy``."""
        self.action_dist.set_time(obs["time"])  # pyright: ignore[reportAttributeAccessIssue]
        return super().get_distribution(obs, *args, **kwargs)


def pack_action(location: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Return locations (N, 2) and labels (N,) as actions (N, 2 + K): +1 at the label, else -1."""
    scores = location.new_full((len(location), num_classes), -1)
    scores.scatter_(1, label[:, None], 1)
    return torch.cat((location, scores), 1)


def unpack_action(action: Tensor) -> tuple[Tensor, Tensor]:
    """Return the locations (N, 2) and labels (N,) of actions (N, 2 + K)."""
    return action[:, :2], action[:, 2:].argmax(1)


def require_keys(space: spaces.Space, names: tuple[str, ...]) -> None:
    """Raise a ValueError unless the observation space is a Dict with these entries."""
    if not isinstance(space, spaces.Dict) or not set(names) <= set(space.spaces):
        raise ValueError(
            f"observation_space must be a Dict with {', '.join(names)}, got {space}: use "
            "HistoryFeatures where VectorGlimpseHistory wraps the environment, and only there"
        )
