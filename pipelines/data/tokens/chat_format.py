"""The chat format of tokenizers that Rayse trains.

The template is stored in the artifact (chat_template.jinja); everything renders through that file (chat.py), never
through this constant. Each turn is between <|im_start|> and <|im_end|>, as in ChatML, with the start-of-document token
before the first.
"""

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
ROLES = ("system", "user", "assistant")  # each a single token, whatever text a tokenizer is trained on
SPECIAL_TOKENS = (PAD, BOS, EOS, TURN_START, TURN_END)  # ids 0 to 4

TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
