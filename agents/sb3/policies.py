"""The glimpse agent for Stable-Baselines3: the paper's glimpse network and a hybrid action.

An action of the ``Box`` format is a location (x, y) and a score for each class, of which the
first highest counts. Stable-Baselines3 would make it one Gaussian of 2 + K numbers; here it is
what is meant: a Gaussian location and a categorical label. A sampled label c is packed as +1
at c and -1 elsewhere, which survives the clipping to [-1, 1] and is read back by argmax.

Only what Stable-Baselines3 documents is extended: a features extractor, a distribution and
policies, for PPO and A2C (:class:`HybridPolicy`) and for sb3-contrib's RecurrentPPO
(:class:`RecurrentHybridPolicy`). Needs ``pip install "ram-env[sb3]"``.

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
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

from agents.ram import GlimpseNetwork, RAMConfig


class GlimpseFeatures(BaseFeaturesExtractor):
    """What is seen now and where: the paper's glimpse network, g_t, and the time.

    Args:
        observation_space: Of the environment, with ``glimpse``, ``location`` and ``time``.
        with_time: Append the time: without memory nothing else tells how many glimpses are
            left, which the value depends on. Our choice, the paper's networks don't see it.
        **sizes: Of :func:`make_glimpse_network`.
    """

    def __init__(self, observation_space: spaces.Dict, *, with_time: bool = True, **sizes: int):
        need_keys(observation_space, ("glimpse", "location", "time"))
        network = make_glimpse_network(observation_space["glimpse"].shape, **sizes)
        super().__init__(observation_space, network.join_what.out_features + with_time)
        self.with_time = with_time
        self.glimpse_network = network

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Map ``glimpse`` (N, P, G, G), ``location`` (N, 2) and ``time`` (N, 1) to (N, F)."""
        g = self.glimpse_network(observations["glimpse"], observations["location"])  # (N, D)
        return torch.cat((g, observations["time"]), 1) if self.with_time else g


class HybridHead(nn.Module):
    """The policy's last layer: a location's mean and a label's logits from the features.

    Args:
        num_features: F.
        num_classes: K.
        tanh_mean: Squash the mean into the image (the paper); else it is linear.

    Attributes:
        location, label: The linear layers of the mean and of the logits.
    """

    def __init__(self, num_features: int, num_classes: int, *, tanh_mean: bool):
        super().__init__()
        self.location = nn.Linear(num_features, 2)
        self.label = nn.Linear(num_features, num_classes)
        self._tanh_mean = tanh_mean

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, F) to mean and logits side by side, (N, 2 + K)."""
        mean = self.location(features)
        mean = torch.tanh(mean) if self._tanh_mean else mean
        return torch.cat((mean, self.label(features)), 1)


class HybridDistribution(DiagGaussianDistribution):
    """A Gaussian location and a categorical label, each counted where it does something.

    The label that is scored is the last one, and the last location is not used. So where the
    time is 1 the log-probability and the entropy are the label's, and before the location's:
    the rest would only be noise in the policy gradient and in PPO's ratios.

    The log-probability is that of the location as sampled; clipping it to the image is part
    of the environment's dynamics.

    Args:
        num_classes: K.
        tanh_mean: See :class:`HybridHead`.
        label_counts: ``"last"`` as above; ``"every"`` counts the label at every step, for
            rewards that score each (``reward="dense"``).

    Attributes:
        location: Distribution of the location, of each coordinate. Batch shape (N, 2).
        label: Distribution of the label. Batch shape (N,).
        scored: Where the label counts as the episode's last. Shape (N,), bool.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        tanh_mean: bool = True,
        label_counts: Literal["last", "every"] = "last",
    ):
        if label_counts not in ("last", "every"):
            raise ValueError(f"label_counts must be 'last' or 'every', got {label_counts!r}")
        super().__init__(2 + num_classes)
        self._num_classes = num_classes
        self._tanh_mean = tanh_mean
        self._every = label_counts == "every"
        self._time: Tensor | None = None

    def proba_distribution_net(self, latent_dim: int, log_std_init: float = 0.0) -> Any:
        """Make the head and the logarithm of the location's std, (2,), which is learned."""
        head = HybridHead(latent_dim, self._num_classes, tanh_mean=self._tanh_mean)
        return head, nn.Parameter(torch.full((2,), log_std_init))

    def set_time(self, time: Tensor) -> None:
        """Tell the time (N, 1) of the samples that the next ``proba_distribution`` is for.

        Raises:
            ValueError: If it isn't in [0, 1].
        """
        if ((time < 0) | (time > 1)).any():
            raise ValueError(
                "the observation's time must be in [0, 1], which says when a label is scored; got "
                f"{time.min().item():g} to {time.max().item():g}: VecNormalize needs norm_obs=False"
            )
        self._time = time

    def proba_distribution(self, mean_actions: Tensor, log_std: Tensor) -> HybridDistribution:
        """Take the parameters: mean and logits (N, 2 + K), and the log std (2,)."""
        if self._time is None:
            raise RuntimeError("call set_time() before each proba_distribution()")
        mean, logits = mean_actions[:, :2], mean_actions[:, 2:]
        self.location = self.distribution = Normal(mean, log_std.exp().expand_as(mean))
        self.label = Categorical(logits=logits)
        self.scored = self._time[:, 0] >= 1  # (N,)
        self._time = None
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log-probability (N,) of packed actions (N, 2 + K), of what counts."""
        location, label = unpack_action(actions)
        of_location = self.location.log_prob(location).sum(1)
        return self._of_what_counts(of_location, self.label.log_prob(label))

    def entropy(self) -> Tensor:
        """Return the entropy (N,) of what counts."""
        return self._of_what_counts(self.location.entropy().sum(1), self.label.entropy())

    def sample(self) -> Tensor:
        """Draw packed actions (N, 2 + K); constants, without gradient."""
        return pack_action(self.location.sample(), self.label.sample(), self._num_classes)

    def mode(self) -> Tensor:
        """Return the mean location and the likeliest label, packed, (N, 2 + K)."""
        return pack_action(self.location.mean, self.label.logits.argmax(1), self._num_classes)

    def _of_what_counts(self, location: Tensor, label: Tensor) -> Tensor:
        """Return the label's numbers where it is scored, the location's before, (N,)."""
        return torch.where(self.scored, label, location + label if self._every else location)


class HybridPolicy(ActorCriticPolicy):
    """Actor and critic of the glimpse agent, for PPO and A2C.

    ``PPO(HybridPolicy, env, policy_kwargs={"initial_std": 0.1})``. By default the heads lie
    straight on :class:`GlimpseFeatures` (``net_arch=[]``, as in the paper).

    Args:
        observation_space: A ``Dict`` with ``time`` (1,), which is 1 where a label is scored.
        action_space: ``Box`` of 2 + K numbers (``action_format="box"``, without
            ``allow_stop``: a stop would be taken for a class).
        lr_schedule: Learning rate, a function of the remaining progress.
        initial_std: Of the location at the start, in units of half an image; it is learned.
        tanh_mean: See :class:`HybridHead`.
        label_counts: See :class:`HybridDistribution`.
        **kwargs: Of ``ActorCriticPolicy``, but ``log_std_init`` and ``use_sde``.

    Attributes:
        action_net: The :class:`HybridHead`.
        log_std: Logarithm of the location's std. Shape (2,).

    Raises:
        ValueError: If a space or a value is not of this kind.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Any,
        *,
        initial_std: float = 0.22,
        tanh_mean: bool = True,
        label_counts: Literal["last", "every"] = "last",
        **kwargs: Any,
    ):
        need_keys(observation_space, ("time",))
        self._hybrid = {"tanh_mean": tanh_mean, "label_counts": label_counts}
        self._num_classes = _count_classes(action_space)
        if not 0 < initial_std < math.inf:
            raise ValueError(f"initial_std must be positive, got {initial_std}")
        if kwargs.get("use_sde"):
            raise ValueError("use_sde must be False: the location's noise is Gaussian here")
        kwargs = {"features_extractor_class": GlimpseFeatures, "net_arch": [], **kwargs}
        kwargs["log_std_init"] = math.log(initial_std)
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _build(self, lr_schedule: Any) -> None:
        self.action_dist = HybridDistribution(self._num_classes, **self._hybrid)
        super()._build(lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()
        std = math.exp(parameters.pop("log_std_init"))
        return {**parameters, **self._hybrid, "initial_std": std}

    # The ways in to the distribution; RecurrentActorCriticPolicy's take more arguments.

    def forward(self, obs: Any, *args: Any, **kwargs: Any) -> Any:
        """Act: see ``ActorCriticPolicy.forward``."""
        self._set_time(obs)
        return super().forward(obs, *args, **kwargs)

    def evaluate_actions(self, obs: Any, *args: Any, **kwargs: Any) -> Any:
        """Judge actions: see ``ActorCriticPolicy.evaluate_actions``."""
        self._set_time(obs)
        return super().evaluate_actions(obs, *args, **kwargs)

    def get_distribution(self, obs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the actions' distribution: see ``ActorCriticPolicy.get_distribution``."""
        self._set_time(obs)
        return super().get_distribution(obs, *args, **kwargs)

    def _set_time(self, obs: dict[str, Tensor]) -> None:
        assert isinstance(self.action_dist, HybridDistribution)
        self.action_dist.set_time(obs["time"])


class RecurrentHybridPolicy(HybridPolicy, RecurrentActorCriticPolicy):
    """:class:`HybridPolicy` with an LSTM between features and heads, for RecurrentPPO.

    Further keywords are ``RecurrentActorCriticPolicy``'s, ``lstm_hidden_size`` (256) and others;
    by default the critic has an LSTM of its own.
    """


def pack_action(location: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Return locations (N, 2) and labels (N,) as actions (N, 2 + K): +1 at the label, else -1."""
    scores = location.new_full((len(location), num_classes), -1)
    scores.scatter_(1, label[:, None], 1)
    return torch.cat((location, scores), 1)


def unpack_action(action: Tensor) -> tuple[Tensor, Tensor]:
    """Return the locations (N, 2) and labels (N,) of actions (N, 2 + K)."""
    return action[:, :2], action[:, 2:].argmax(1)


def make_glimpse_network(
    glimpse_shape: Any,
    *,
    what_size: int = 128,
    where_size: int = 128,
    hidden_size: int = 256,
    conv_features: int = 0,
) -> GlimpseNetwork:
    """Make the paper's glimpse network for glimpses (P, G, G); see :class:`agents.ram.RAMConfig`.

    Source:
        Mnih et al. (2014), arXiv:1406.6247, section 4 "Glimpse network".
    """
    return GlimpseNetwork(
        RAMConfig(
            glimpse_shape=tuple(glimpse_shape),
            num_classes=1,  # none of the glimpse network's business
            what_size=what_size,
            where_size=where_size,
            hidden_size=hidden_size,
            conv_features=conv_features,
        )
    )


def need_keys(space: spaces.Space, names: tuple[str, ...]) -> None:
    """Raise a ValueError unless the observation space is a Dict with these entries."""
    if not isinstance(space, spaces.Dict) or not set(names) <= set(space.spaces):
        raise ValueError(f"observation_space must be a Dict with {', '.join(names)}, got {space}")


def _count_classes(space: spaces.Space) -> int:
    """Return K of the action space, and check that packed labels survive clipping to it."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 1 or space.shape[0] < 3:
        raise ValueError(f"action_space must be a Box (action_format='box') of 2 + K, got {space}")
    if (space.low > -1).any() or (space.high < 1).any():
        raise ValueError(f"action_space must hold -1 and 1, got {space}")
    return space.shape[0] - 2
