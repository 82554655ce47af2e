"""Every exception the package raises on purpose, in one hierarchy.

    ADEDError
    ├── ModelError            the GGUF cannot be used (also a ValueError)
    │   ├── ModelNotFoundError    no such file, a folder, or a model's name that is not installed
    │   ├── ModelFormatError      not a GGUF, truncated, inconsistent, or llama.cpp crashes on it
    │   ├── ModelKindError        vocabulary only, embedding, encoder: it does not write text
    │   └── PairingError          a draft model that cannot draft for this target: another vocabulary, no cache
    ├── PromptError           the prompt cannot be answered (also a ValueError)
    │   ├── EmptyPromptError
    │   └── ContextOverflowError  the prompt is longer than the context
    ├── OptionError           an option is out of range or contradicts another (also a ValueError)
    │   └── GrammarError          a grammar or schema cannot be used, or leaves no token to say
    ├── TemplateError         the chat template is missing, broken, or refuses the conversation (also a ValueError)
    │   └── TemplateLimitError    it was stopped, since it took too much time or memory
    ├── DeviceError           memory or backend refused (allocation, decode; also a RuntimeError)
    │   ├── BrokenBuildError      llama.cpp, as it was built, dies or hangs on this processor
    │   └── ForkedError           this process was forked from one in which llama.cpp ran, and it would hang
    ├── StoreError            a cache or store file could not be written or read
    └── BusyError             the object is already generating, or closed, or the answer was ended before its end

Each message is one line: what happened, why, and what to do about it. The built-in classes are those that
llama-cpp-python raises for the same, so that programs written for it catch ours.
"""


class ADEDError(Exception):
    """Base of all errors this package raises on purpose."""


class ModelError(ADEDError, ValueError):
    """The model file cannot be used."""


class ModelNotFoundError(ModelError):
    """There is no model file at the given path, or the named model is not installed."""


class ModelFormatError(ModelError):
    """The file is not a GGUF, is truncated or inconsistent, or llama.cpp crashed on it in a child process."""


class ModelKindError(ModelError):
    """The GGUF is sound but does not write text: vocabulary only, embedding, encoder."""


class PairingError(ModelError):
    """The draft model cannot draft for this target: its vocabulary is another one, or its memory cannot branch."""


class PromptError(ADEDError, ValueError):
    """The prompt cannot be answered."""


class EmptyPromptError(PromptError):
    """The prompt holds no token."""


class ContextOverflowError(PromptError):
    """The prompt does not fit into the context."""


class OptionError(ADEDError, ValueError):
    """An option is out of range, or two options contradict each other."""


class GrammarError(OptionError):
    """A grammar or a schema cannot be used, or it leaves no token that the model could say."""


class TemplateError(ADEDError, ValueError):
    """The chat template is missing, does not compile, or refused the conversation."""


class TemplateLimitError(TemplateError):
    """The chat template was stopped, since it took too much time or memory."""


class DeviceError(ADEDError, RuntimeError):
    """The machine or llama.cpp's backend refused: out of memory, a failed decode."""


class BrokenBuildError(DeviceError):
    """llama.cpp, as it was built, dies, hangs or computes nonsense on this processor; found out in a child process."""


class ForkedError(DeviceError):
    """This process was forked from one in which llama.cpp ran. A fork has no copy of its threads, so it would hang."""


class StoreError(ADEDError):
    """A cache or store file could not be read or written."""


class BusyError(ADEDError):
    """This object is already generating, or closed, or this answer was ended before all of it was read."""
