"""The names that data sets give to columns, and to the keys of turns, by what they hold. Compared without case."""

from __future__ import annotations

from typing import Literal

TEXT_COLUMNS = ("text", "content", "body", "document", "article", "passage", "正文", "内容", "內容", "文本")
# Columns of a conversation in one column, of a prompt and of its reply, by the names that data sets give them.
TURN_LISTS = ("messages", "conversations", "conversation", "contents", "dialogue", "dialog", "turns", "对话", "對話")
OTHER_TURN_LISTS = ("items", "chat", "chat_messages")  # which may hold anything else
MARKED_TEXTS = ("plain_text",)  # MOSS 002: a conversation with marks, beside its system's text
MARKED_SYSTEMS = ("prefix",)
# Columns of texts alone that take turns, the user's first: LIMA, DailyDialog; UltraChat's `data` where it stands alone.
TEXT_LISTS = ("conversations", "conversation", "dialogue", "dialog", "data", "对话", "對話")
PROMPT_COLUMNS = ("instruction", "prompt", "question", "query", "problem", "指令", "问题", "提问", "提示词", "用户问题",
                  "問題", "提問", "提示詞")  # fmt: skip
HINT_COLUMNS = ("提示",)  # a prompt where a reply stands beside it; else it may be a hint
# Prompts only where a reply stands beside.
PROMPTS_OF_REPLIES = (*PROMPT_COLUMNS, *HINT_COLUMNS, "input", "inputs", "user", "human", "user_prompt", "user_input",
                      "user_message", "q", "用户", "用户输入", "输入", "问", "使用者", "輸入", "問")  # fmt: skip
REPLY_COLUMNS = ("output", "response", "completion", "answer", "reply", "solution", "assistant", "targets", "target",
                 "model_response", "assistant_response", "bot_response", "model_output", "a",
                 "输出", "回答", "答案", "回复", "答复", "解答", "助手", "答", "模型回答", "模型回复", "模型输出",
                 "輸出", "回覆", "答覆", "助理", "ai")  # fmt: skip
CALL_COLUMNS = ("answers",)  # xLAM: the calls that answer a query, where tools stand beside them
INSTANCE_COLUMNS = ("instances",)  # self-instruct: inputs and outputs of one instruction, by these keys
INSTANCE_KEYS = ("input", "output")
# Columns beside them.
SYSTEM_COLUMNS = ("system", "system_prompt", "system_message", "system_instruction", "systeminstruction",
                  "meta_instruction", "系统",
                  "系统提示", "系统提示词", "系統", "系統提示", "系統提示詞")  # fmt: skip
CONTEXT_COLUMNS = ("input", "context", "输入", "輸入", "上下文")  # Alpaca's and Dolly's: what the instruction is about
# Natural Instructions, as rows: what is to be done with each input.
DEFINITION_COLUMNS, TASK_INPUTS = ("definition",), ("input", "inputs")
HISTORY_COLUMNS = ("history", "历史", "歷史")
THOUGHT_COLUMNS = ("reasoning_content", "reasoning", "thinking", "thought", "complex_cot", "cot", "chain_of_thought",
                   "思考", "思考过程", "思考過程", "推理", "推理过程", "推理過程")  # fmt: skip
TOOLS_COLUMNS = ("tools", "functions")  # descriptions of the tools that the assistant may call
GOOD_COLUMNS = ("label", "kto_tag", "thumbs", "thumbs_up", "is_good", "good", "desirable", "liked", "is_correct",
                "correct")  # fmt: skip
BAD_COLUMNS = ("thumbs_down", "is_bad")
RATING_COLUMNS = ("rating", "score", "overall_score", "reward", "quality", "pm_score")
MEDIA_COLUMNS = ("image", "images", "audio", "audios", "video", "videos")  # what a row with any of them is about
# Two replies of which the first is better, and the scores beside them.
PAIR_COLUMNS = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("preferred", "dispreferred"),
    ("preferred_output", "non_preferred_output"),
    ("response_j", "response_k"),
    ("better", "worse"),
    ("好回答", "坏回答"),
    ("选中", "拒绝"),
    ("接受", "拒绝"),
    ("优选", "劣选"),
)
PAIR_SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("rating_chosen", "rating_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)
# Two replies and a column that says which is better, by the end of the other's name: response_0, 0; conversation_a, a;
# by its sign, below 0 for the first; or by a score of each.
CHOICE_COLUMNS = (
    ("response_0", "response_1"),
    ("response_1", "response_2"),
    ("response_a", "response_b"),
    ("answer_a", "answer_b"),
    ("output_1", "output_2"),
    ("conversation_a", "conversation_b"),
    ("response1", "response2"),
    ("answer_0", "answer_1"),
    ("human_ref_a", "human_ref_b"),
)
WINNER_COLUMNS = ("better_response_id", "winner", "preference", "preferred", "choice", "better")
# Two replies beside which a label is a choice: of the former 0 or 1, of the latter 1, 2, or 0 for neither (PandaLM).
LABELLED_CHOICES = (("response_0", "response_1"), ("answer_0", "answer_1"), ("response1", "response2"))
CHOICE_LABELS = ("label",)
STRENGTH_COLUMNS = ("preference_strength", "overall_preference")  # HelpSteer 2 and 3
CHOICE_SCORES = (("score_0", "score_1"), ("score_1", "score_2"), ("score_a", "score_b"))  # SHP and others
# Several replies in one column, each with a rating of its own or one in a list beside them.
REPLY_LISTS = ("completions", "responses", "replies", "answers", "generations", "outputs", "candidates")
RANK_COLUMNS = ("rank", "ranks", "ranking")  # 1 or 0 is the best; of ratings the highest is
RATING_LISTS = (*RANK_COLUMNS, "ratings", "rating", "scores", "score", "rewards")
RATED_REPLY_KEYS = ("response", "text", "content", "answer", "reply", "output", "completion", "value")
# Keys of a turn.
SENDER = "sender"  # of a mail too
ROLE_KEYS = ("role", "from", "speaker", SENDER, "角色")
CONTENT_KEYS = ("content", "value", "text", "parts", "内容", "內容")
REFUSAL = "refusal"  # of an assistant's turn that refuses, in place of its content; a type of parts of it too
CALL_KEYS = ("tool_calls", "function_call")
RESULT_KEYS = ("tool_call_id", "name")  # of a turn that is the result of a call
# 0 or false: the turn is not learnt.
FLAG_KEYS = ("weight", "train", "loss", "learn", "trainable", "output_with_loss", "label")
# Columns beside the messages that say the same of all their turns; `loss` may be one that somebody measured.
ROW_FLAGS = ("weight", "train")
# Roles of turns, as conversations have them.
ROLES = {
    "system": "system",
    "developer": "system",
    "系统": "system",
    "系統": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "用户": "user",
    "人类": "user",
    "用戶": "user",
    "使用者": "user",
    "人類": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "助手": "assistant",
    "机器人": "assistant",
    "助理": "assistant",
    "機器人": "assistant",
}
# Roles of turns that only call tools, and of those that are the results of calls.
CALL_ROLES = ("function_call", "tool_call", "tool_calls")
RESULT_ROLES = ("tool", "function", "function_response", "observation", "tool_response", "tool_result", "ipython")
EXCHANGE_KEYS = (
    ("human", "assistant"),
    ("user", "assistant"),
    ("human", "bot"),
    ("prompt", "response"),
    ("input", "output"),
    ("instruction", "output"),
    ("question", "answer"),
    ("query", "response"),
)
# Names that a recipe may give to columns of other names: the source's option `columns`.
Column = Literal["prompt", "context", "system", "history", "reply", "reasoning", "label", "rating", "tools",
                 "messages", "chosen", "rejected", "replies", "ratings", "ranks"]  # fmt: skip
MISSING_TEXTS = ("", "<noinput>")  # the latter is how self-instruct writes an instruction without input
