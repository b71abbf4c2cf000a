"""What is trained: the table of presets. Imports nothing, so that a wrong name fails before anything is launched.

A preset is a name -> ("module:class", sizes). Sizes of the GPT-2 family: Radford et al. 2019, table 2. `gpt-10b` is 50
layers of width 4096, 10.3 billion parameters. `seq2seq-*` models read one sequence and write another. `paced-*` models sleep
for a known time instead of computing.

`hf:TYPE` (for example `hf:gpt2`) is any causal language model of transformers, built from a configuration.
"""

HUGGINGFACE_PREFIX = "hf:"

_GPT = "models.gpt:GPT"
_PACED = "models.paced:PacedLM"
SEQ2SEQ = "models.seq2seq:Seq2Seq"

GPT2_SCALED, NORMAL, XAVIER = INITIALIZATIONS = ("gpt2-scaled", "normal", "xavier")
"""How weights may start out (`models.layers.WeightInit`)."""

_TRAINED: dict[str, int | float | str] = {"dropout": 0.0, "initialization": GPT2_SCALED}

PRESETS: dict[str, tuple[str, dict[str, int | float | str]]] = {
    "gpt-nano": (
        _GPT,
        {"num_layers": 4, "num_heads": 4, "hidden_size": 256, "vocab_size": 4096, "max_seq_len": 256, **_TRAINED},
    ),
    "gpt2-small": (
        _GPT,
        {"num_layers": 12, "num_heads": 12, "hidden_size": 768, "vocab_size": 50257, "max_seq_len": 1024, **_TRAINED},
    ),
    "gpt2-medium": (
        _GPT,
        {"num_layers": 24, "num_heads": 16, "hidden_size": 1024, "vocab_size": 50257, "max_seq_len": 1024, **_TRAINED},
    ),
    "gpt2-large": (
        _GPT,
        {"num_layers": 36, "num_heads": 20, "hidden_size": 1280, "vocab_size": 50257, "max_seq_len": 1024, **_TRAINED},
    ),
    "gpt2-xl": (
        _GPT,
        {"num_layers": 48, "num_heads": 25, "hidden_size": 1600, "vocab_size": 50257, "max_seq_len": 1024, **_TRAINED},
    ),
    "gpt-10b": (
        _GPT,
        {"num_layers": 50, "num_heads": 32, "hidden_size": 4096, "vocab_size": 50257, "max_seq_len": 1024, **_TRAINED},
    ),
    "seq2seq-nano": (
        SEQ2SEQ,
        {"num_layers": 2, "num_heads": 4, "hidden_size": 128, "vocab_size": 64, "max_seq_len": 64, **_TRAINED},
    ),
    # The base model of Vaswani et al. 2017, table 3, with learned positions: 63 million parameters.
    "seq2seq-base": (
        SEQ2SEQ,
        {"num_layers": 6, "num_heads": 8, "hidden_size": 512, "vocab_size": 37000, "max_seq_len": 512, **_TRAINED},
    ),
    # Six layers of 20 ms forward and 40 ms backward for a micro-batch of 256 tokens: 360 ms of known time.
    "paced-nano": (
        _PACED,
        {
            "num_layers": 6,
            "hidden_size": 128,
            "vocab_size": 512,
            "max_seq_len": 256,
            "forward_s": 0.020,
            "backward_s": 0.040,
            "reference_tokens": 256,
        },
    ),
}
