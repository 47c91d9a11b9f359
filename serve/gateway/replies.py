"""What a server remembers of its replies, and the feedback on them.

a complete reply ──keep──► RecentReplies, and its receipt ──► the client ──/feedback──► save ──► FeedbackStore
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pipelines.data.tokens.chat import Chat
from pipelines.data.tokens.chat_messages import Message, reply_message, said
from serve.gateway import receipts
from serve.gateway.asgi import ApiError, parse_object
from serve.gateway.database import DatabaseError, open_database
from serve.gateway.feedback import KEEP, MASK, FeedbackStore, Opinion, RecentReplies, Reply, UnknownReply
from serve.gateway.fields import FeedbackFields
from serve.gateway.guard import guard_name
from serve.gateway.reading import read
from serve.gateway.receipts import InvalidReceipt
from serve.gateway.request import GenerationRequest, parse_prompt
from serve.gateway.tools import stored_calls
from serve.settings import Settings

FindReply = Callable[[str], Awaitable[Reply | None]]


class Replies:
    """The replies of a server that stores feedback. Raises UserError, DatabaseError, OSError."""

    def __init__(self, settings: Settings, chat: Chat):
        assert settings.receipt_key
        self._settings, self._chat, self._recent = settings, chat, RecentReplies()
        database = open_database(settings.feedback, settings.feedback_url)
        self._store = FeedbackStore(database, MASK if settings.mask_feedback else KEEP)
        self._key = receipts.shared_key(settings.receipt_key, settings.store)
        self._guard_name = guard_name(settings)
        self._template_digest = receipts.template_digest(settings.model)
        self._num_saving = 0

    def keep(self, request: GenerationRequest, message: Message, key_name: str) -> str:
        """Remembers a reply, the assistant's message, for feedback, and returns its receipt. key_name: of the request's
        key; empty without."""
        settings, sampling = self._settings, request.sampling
        user, key = receipts.pseudonym(request.user, self._key), receipts.pseudonym(key_name, self._key)
        facts = {
            "id": request.reply_id, "model": settings.name, "version": settings.version, "guard": self._guard_name,
            "template": self._template_digest, "sampling": sampling, "prompt": receipts.digest(request.client_prompt),
            "reply": receipts.digest(said(message)), "time": request.created,
            **({"knowledge": settings.knowledge_version} if settings.knowledge_folder else {}),
            **({"user": user} if user else {}), **({"key": key} if key else {}),
        }  # fmt: skip
        self._recent.add(Reply(request.reply_id, request.prompt, message["content"], settings.name, settings.version,
                               sampling, request.created, facts, user, key, message.get("tool_calls", ""),
                               request.tools))  # fmt: skip
        return receipts.sign(facts, self._key)

    def recent(self, reply_id: str) -> Reply | None:
        """A reply that this process remembers, by its id."""
        return self._recent.get(reply_id)

    async def save(self, body: bytes, find: FindReply | None = None) -> tuple[str, Opinion]:
        """Stores feedback; returns the reply's id and what was stored, once on disk. body: FeedbackFields as JSON;
        find: looks for a reply that another replica remembers, by its id. Raises ApiError, also beyond the limit of
        requests in flight, which counts feedback apart from replies."""
        if self._num_saving >= self._settings.limits.requests_in_flight:
            raise ApiError(429, f"feedback of {self._num_saving} requests is being stored, which is this server's "
                           f"limit; try again shortly", code="too_many_requests",
                           headers={"retry-after": "1"})  # fmt: skip
        self._num_saving += 1
        try:
            return await self._save(body, find)
        finally:
            self._num_saving -= 1

    async def _save(self, body: bytes, find: FindReply | None) -> tuple[str, Opinion]:
        # In a thread: a long body takes a while to parse and check.
        fields, facts = await asyncio.to_thread(self._read, body)
        reply_id = fields.reply_id or facts["id"]
        reply = self.recent(reply_id)
        if reply is None:
            signed, problem = None, None
            try:
                signed = await asyncio.to_thread(self._reply_of, fields, facts) if facts else None
            except ApiError as error:  # texts that a replica which remembers the reply need not read
                problem = error
            reply = await _known_elsewhere(reply_id, signed, find)
            if reply is None and problem is not None:
                raise problem
        opinion = Opinion(fields.thumb or "down", fields.comment, fields.correction, fields.report or "")
        try:
            await asyncio.to_thread(self._store.save, reply_id, opinion, reply)
        except UnknownReply:
            raise ApiError(404, f"reply_id {reply_id!r}: no such reply, or no longer remembered; send its receipt",
                           param="reply_id", code="reply_not_found") from None  # fmt: skip
        except (DatabaseError, OSError) as error:
            raise ApiError(507, f"the feedback could not be stored ({error}); please try again later") from None
        return reply_id, opinion

    def _read(self, body: bytes) -> tuple[FeedbackFields, dict[str, Any]]:
        """The fields of feedback, and what its receipt says; nothing without one. Raises ApiError."""
        fields = read(FeedbackFields, parse_object(body))
        return fields, self._facts(fields.receipt) if fields.receipt else {}

    def _facts(self, receipt: str) -> dict[str, Any]:
        """What a receipt says of its reply. Raises ApiError for one that is not this server's."""
        try:
            return receipts.read(receipt, self._key)
        except InvalidReceipt as error:
            raise ApiError(400, f"receipt: {error}", param="receipt", code="invalid_receipt") from None

    def _reply_of(self, fields: FeedbackFields, facts: dict[str, Any]) -> Reply:
        """The reply that a receipt is of, with the texts that the client sends along. Raises ApiError for texts that it
        is not of."""
        prompt = None if fields.prompt is None else parse_prompt(fields.prompt, self._chat)
        calls = stored_calls([call.model_dump() for call in fields.tool_calls or []])
        reply = said(reply_message(fields.reply or "", calls)) if fields.reply is not None or calls else None
        for name, text in (("prompt", prompt), ("reply", reply)):
            if text is not None and receipts.digest(text) != facts[name]:
                raise ApiError(400, f"{name}: is not the one that the receipt is of; leave it out or unchanged",
                               param=name, code="invalid_receipt")  # fmt: skip
        return Reply(facts["id"], prompt, fields.reply or "", facts["model"], facts["version"], facts["sampling"],
                     facts["time"], facts, facts.get("user", ""), facts.get("key", ""), calls)  # fmt: skip


async def _known_elsewhere(reply_id: str, signed: Reply | None, find: FindReply | None) -> Reply | None:
    """A reply that this process does not remember. signed: as its receipt says, with the texts that the client sent
    along: other replicas are asked only where texts are missing, and need not answer."""
    if find is None or (signed is not None and signed.prompt is not None and (signed.reply or signed.tool_calls)):
        return signed
    try:
        return await find(reply_id) or signed
    except ApiError:
        if signed is None:
            raise
        return signed
