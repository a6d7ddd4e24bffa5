"""Hugging Face models: load, create, save, and their loss as a function of their parameters."""

from .device import give_back_freed_memory as give_back_freed_memory
from .device import keep_freed_memory as keep_freed_memory
from .device import pick_device as pick_device
from .loading import check_tokenizer as check_tokenizer
from .loading import load_model as load_model
from .loading import load_tokenizer as load_tokenizer
from .loading import save_model as save_model
from .loss import PromptLoss as PromptLoss
from .loss import prompt_loss as prompt_loss
from .processes import Processes as Processes
from .processes import join as join
from .sharding import ShardedModel as ShardedModel
from .trainable import TrainableModel as TrainableModel
from .trainable import choose_trainable as choose_trainable
from .trainable import merge_trained as merge_trained
from .trainable import recompute_activations as recompute_activations
from .trainable import trainable_parameters as trainable_parameters
from .untrained import new_gpt2 as new_gpt2
from .untrained import train_tokenizer as train_tokenizer
from .untrained import word_tokenizer as word_tokenizer
