"""PPO with Tianshou: `python docs/clients/with_tianshou.py [ENV_STEPS]`.

Tianshou makes its vector environment from single ones and calls it in its own way, so the native
vector environment isn't used here. Actions are `"multidiscrete"`: a column, a row and a class. The
policy has no memory.
"""

import sys

import gymnasium as gym
import torch
from gymnasium.wrappers import FlattenObservation
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, CollectStats, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import ActionReprNet
from torch import nn
from torch.distributions import Categorical, Independent

import ram_env  # noqa: F401 - registers the ids

ENV_ID, NUM_ENVS = "MNISTGlimpse-v0", 16


def make_env(**keywords):
    """Make one environment whose observation is one vector."""
    return FlattenObservation(
        gym.make(ENV_ID, action_format="multidiscrete", grid_size=(10, 10), **keywords)
    )


class Net(ActionReprNet):
    """Two layers from a flat observation to outputs."""

    def __init__(self, num_inputs: int, num_outputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(num_inputs, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()),
            nn.Linear(128, num_outputs),
        )

    def forward(self, obs, state=None, info=None):
        """Map observations (N, inputs) to outputs (N, outputs), and pass on the state."""
        return self.layers(torch.as_tensor(obs, dtype=torch.float32)), state


class Critic(Net):
    """The value of an observation."""

    def forward(self, obs, state=None, info=None):
        """Map observations (N, inputs) to values (N, 1)."""
        return super().forward(obs)[0]


def choose(logits):
    """Return independent choices of a column, a row and a class, of ten each."""
    return Independent(Categorical(logits=logits.unflatten(-1, (3, 10))), 1)


env_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300_000
torch.manual_seed(0)
example = make_env()
num_inputs = example.observation_space.shape[0]
num_glimpses = example.unwrapped.task.num_glimpses
policy = ProbabilisticActorPolicy(
    actor=Net(num_inputs, 30),
    dist_fn=choose,
    action_space=example.action_space,
    action_scaling=False,
    action_bound_method=None,
    deterministic_eval=True,
)
algorithm = PPO(
    policy=policy,
    critic=Critic(num_inputs, 1),
    optim=AdamOptimizerFactory(lr=1e-3),
    gamma=1.0,
    ent_coef=0.03,
    max_grad_norm=0.5,
)
train_envs = DummyVectorEnv([make_env for _ in range(NUM_ENVS)])
test_envs = DummyVectorEnv([lambda: make_env(split="validation") for _ in range(NUM_ENVS)])
train_envs.seed(0)
test_envs.seed(0)
per_update = num_glimpses * NUM_ENVS * 8
per_epoch = max(min(env_steps, 20 * per_update), per_update)
result = algorithm.run_training(
    OnPolicyTrainerParams(
        training_collector=Collector[CollectStats](
            algorithm, train_envs, VectorReplayBuffer(2 * per_update, NUM_ENVS)
        ),
        test_collector=Collector[CollectStats](algorithm, test_envs),
        max_epochs=max(env_steps // per_epoch, 1),
        epoch_num_steps=per_epoch,
        collection_step_num_env_steps=per_update,
        update_step_num_repetitions=4,
        batch_size=224,
        test_step_num_episodes=10 * NUM_ENVS,
        verbose=False,
        show_progress=False,
    )
)
print(f"best mean reward on validation {result.best_reward:.3f}")
