"""Short chat templates in the formats that model families publish, with tools, calls and results."""

# ruff: noqa: E501  (templates)

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A template, the control texts of its vocabulary, and the USER_DEFINED ones.

    ``most_calls`` is how many calls a message may have; ``is_told`` says whether the template takes tools and calls.
    """

    source: str
    controls: tuple[str, ...]
    defined: tuple[str, ...] = ()
    bos: str = ""
    eos: str = ""
    most_calls: int = 2
    is_told: bool = True


_TOOLS = "{% if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}<tools>{% for tool in tools %}{{ '\\n' ~ tool | tojson }}{% endfor %}\n</tools>\nCall as <tool_call>\n{\"name\": <name>, \"arguments\": <object>}\n</tool_call><|im_end|>\n{% elif messages[0].role == 'system' %}{{ '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{% endif %}"

HERMES = (
    _TOOLS
    + """{% for m in messages %}{% if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant' }}{% if m.content %}{{ '\\n' + m.content }}{% endif %}
{% for call in m.tool_calls %}{% if call.function %}{% set call = call.function %}{% endif %}{{ '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' + call.arguments | tojson + '}\\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\\n' }}
{% elif m.role == 'tool' %}{{ '<|im_start|>tool\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
)

QWEN3 = (
    _TOOLS
    + """{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' and not (m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{% for m in messages %}{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{% elif m.role == 'assistant' %}{% set content = m.content %}{% set thought = '' %}
{% if m.reasoning_content is defined and m.reasoning_content is not none %}{% set thought = m.reasoning_content %}
{% elif '</think>' in m.content %}{% set content = m.content.split('</think>')[-1].lstrip('\n') %}{% set thought = m.content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}{% endif %}
{% if loop.index0 > ns.last and (loop.last or thought) %}{{ '<|im_start|>' + m.role + '\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
{% else %}{{ '<|im_start|>' + m.role + '\n' + content }}{% endif %}
{% for call in m.tool_calls or [] %}{% if (loop.first and content) or not loop.first %}{{ '\n' }}{% endif %}{% set call = call.function or call %}{{ '<tool_call>\n{"name": "' }}{{ call.name }}{{ '", "arguments": ' }}{% if call.arguments is string %}{{ call.arguments }}{% else %}{{ call.arguments | tojson }}{% endif %}{{ '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}
{% elif m.role == 'tool' %}{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
)

QWEN3_CODER = """{% macro more(of, known) %}{% for key in of if key not in known %}{{ '\n<' ~ key ~ '>' ~ (of[key] | tojson if of[key] is mapping or (of[key] is sequence and of[key] is not string) else of[key] | string) ~ '</' ~ key ~ '>' }}{% endfor %}{% endmacro %}
{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set messages = messages[1:] %}{% else %}{% set system = 'You help.' %}{% endif %}
{{ '<|im_start|>system\n' ~ system }}{% if tools %}{{ '\n<tools>' }}{% for tool in tools %}{% set tool = tool.function %}{{ '\n<function>\n<name>' ~ tool.name ~ '</name>\n<description>' ~ tool.description | trim ~ '</description>\n<parameters>' }}
{% for name, fields in tool.parameters.properties | items %}{{ '\n<parameter>\n<name>' ~ name ~ '</name>' }}{% if fields.type is defined %}{{ '\n<type>' ~ fields.type | string ~ '</type>' }}{% endif %}{{ more(fields, ['name', 'type']) }}{{ '\n</parameter>' }}{% endfor %}
{{ more(tool.parameters, ['type', 'properties']) }}{{ '\n</parameters>' }}{{ more(tool, ['type', 'name', 'description', 'parameters']) }}{{ '\n</function>' }}{% endfor %}{{ '\n</tools>' }}{% endif %}{{ '<|im_end|>\n' }}
{% for m in messages %}{% if m.role == 'assistant' and m.tool_calls %}{{ '<|im_start|>assistant' }}{% if m.content is string and m.content | trim %}{{ '\n' + m.content | trim + '\n' }}{% endif %}
{% for call in m.tool_calls %}{% set call = call.function %}{{ '\n<tool_call>\n<function=' + call.name + '>\n' }}{% for name, value in call.arguments | items %}{{ '<parameter=' + name + '>\n' }}{{ value | tojson if value is mapping or (value is sequence and value is not string) else value | string }}{{ '\n</parameter>\n' }}{% endfor %}{{ '</function>\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}
{% elif m.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' ~ m.content ~ '\n</tool_response>\n<|im_end|>\n' }}{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

LLAMA3 = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}
{{ '<|start_header_id|>system<|end_header_id|>\n\n' }}{% if tools is not none %}{{ 'Environment: ipython\n' }}{% endif %}{{ system + '<|eot_id|>' }}
{% if tools is not none %}{% set first = messages[0]['content'] | trim %}{% set messages = messages[1:] %}{{ '<|start_header_id|>user<|end_header_id|>\n\n' }}{% for tool in tools %}{{ tool | tojson(indent=4) + '\n\n' }}{% endfor %}{{ first + '<|eot_id|>' }}{% endif %}
{% for m in messages %}{% if 'tool_calls' in m %}{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at once') }}{% endif %}{% set call = m.tool_calls[0].function %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}<|eot_id|>' }}
{% elif m.role == 'tool' %}{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' }}{% if m.content is mapping or m.content is iterable %}{{ m.content | tojson }}{% else %}{{ m.content }}{% endif %}{{ '<|eot_id|>' }}
{% else %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

_MISTRAL_IDS = "{% if call.id is not defined or call.id | length != 9 %}{{ raise_exception('ids have nine signs') }}{% endif %}"

MISTRAL = """{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set messages = messages[1:] %}{% endif %}{% set asked = messages | selectattr('role', 'equalto', 'user') | list %}
{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{% if tools is not none and m == asked[-1] %}{{ '[AVAILABLE_TOOLS][' }}{% for tool in tools %}{% set tool = tool.function %}{{ '{"type": "function", "function": {' }}{% for key, value in tool.items() %}{% if value is string %}{{ '"' + key + '": "' + value + '"' }}{% else %}{{ '"' + key + '": ' + value | tojson }}{% endif %}{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ '}}' }}{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ '][/AVAILABLE_TOOLS]' }}{% endif %}
{% if loop.last and system is defined %}{{ '[INST]' + system + '\n\n' + m['content'] + '[/INST]' }}{% else %}{{ '[INST]' + m['content'] + '[/INST]' }}{% endif %}
{% elif m.tool_calls is defined and m.tool_calls is not none %}{{ '[TOOL_CALLS][' }}{% for call in m.tool_calls %}%ids%{% set out = call.function | tojson %}{{ out[:-1] + ', "id": "' + call.id + '"}' }}{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ ']' + eos_token }}
{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}
{% elif m['role'] == 'tool' %}{% if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}{{ raise_exception('ids have nine signs') }}{% endif %}{{ '[TOOL_RESULTS]{"content": ' + m.content | string + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
{% else %}{{ raise_exception('a role too many') }}{% endif %}{% endfor %}""".replace("%ids%", _MISTRAL_IDS)

MISTRAL_NEW = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' + messages[0]['content'] + '[/SYSTEM_PROMPT]' }}{% set messages = messages[1:] %}{% endif %}{% set asked = messages | selectattr('role', 'equalto', 'user') | list %}
{% for m in messages %}{% if m['role'] == 'user' %}{% if tools is not none and m == asked[-1] %}{{ '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}{{ '[INST]' + m['content'] + '[/INST]' }}
{% elif m['role'] == 'assistant' %}{% if m.get('tool_calls') %}{% for call in m.tool_calls %}%ids%{{ '[TOOL_CALLS]' + call.function.name + '[CALL_ID]' + call.id + '[ARGS]' + call['function']['arguments'] | tojson }}{% endfor %}{{ eos_token }}{% else %}{{ m['content'] + eos_token }}{% endif %}
{% elif m['role'] == 'tool' %}{{ '[TOOL_RESULTS]' + m.tool_call_id + '[TOOL_CONTENT]' + m.content | string + '[/TOOL_RESULTS]' }}{% else %}{{ raise_exception('a role too many') }}{% endif %}{% endfor %}""".replace(
    "%ids%", _MISTRAL_IDS
)

GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

PHI = """{% for m in messages %}{% if m['role'] == 'system' and m['content'] %}{{ '<|system|>\n' + m['content'] + '<|end|>\n' }}{% elif m['role'] == 'user' %}{{ '<|user|>\n' + m['content'] + '<|end|>\n' }}{% elif m['role'] == 'assistant' %}{{ '<|assistant|>\n' + m['content'] + '<|end|>\n' }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"""

DEEPSEEK = """{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% endif %}{% endfor %}{% if tools %}{{ '\n\n' + tools | tojson }}{% endif %}
{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}
{% elif m['role'] == 'assistant' and m['content'] is none %}{{ '<｜Assistant｜><｜tool▁calls▁begin｜>' }}{% for call in m['tool_calls'] %}{{ '<｜tool▁call▁begin｜>' + call['type'] + '<｜tool▁sep｜>' + call['function']['name'] + '\n```json\n' + call['function']['arguments'] + '\n```<｜tool▁call▁end｜>' }}{% endfor %}{{ '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' }}
{% elif m['role'] == 'assistant' %}{{ '<｜Assistant｜>' + m['content'] + '<｜end▁of▁sentence｜>' }}
{% elif m['role'] == 'tool' %}{{ '<｜tool▁output▁begin｜>' + m['content'] + '<｜tool▁output▁end｜>' }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"""

_CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<filename>", "<name>")
_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_INST = ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")  # fmt: skip

FAMILIES = {
    "hermes": Family(HERMES, _CHATML, _TAGS),
    "qwen3": Family(QWEN3, _CHATML, _TAGS),
    "qwen3-coder": Family(QWEN3_CODER, (*_CHATML, "<im_end>", "</im_end>"), _TAGS),
    "llama3": Family(
        LLAMA3,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"),
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        most_calls=1,
    ),
    "mistral": Family(MISTRAL, _INST, bos="<s>", eos="</s>"),
    "mistral-new": Family(
        MISTRAL_NEW, (*_INST, "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[ARGS]", "[CALL_ID]", "[TOOL_CONTENT]"),
        bos="<s>", eos="</s>",
    ),
    "gemma": Family(GEMMA, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), ("<b>",), "<bos>", "<eos>", is_told=False),
    "phi": Family(
        PHI, ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"), eos="<|endoftext|>", is_told=False
    ),
    "deepseek": Family(
        DEEPSEEK,
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜tool▁calls▁begin｜>",
         "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>", "<｜tool▁output▁begin｜>",
         "<｜tool▁output▁end｜>"),
        ("<think>", "</think>"),
        bos="<｜begin▁of▁sentence｜>", eos="<｜end▁of▁sentence｜>",
    ),
}  # fmt: skip
