"""A question's way through the server: check, tokenize, cut into windows, batch, merge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from electra_qa.bundle import Manifest
from electra_qa.engines import usable_cpus
from electra_qa.host_decode import needs_host
from electra_qa.tokenization import TokenizedContext, Tokenizer
from electra_qa.windows import Window, count_windows, make_windows

from ..engine.backend import Backend
from ..engine.batcher import Outcome, WindowRequest
from ..errors import InvalidRequestError, RateLimitError, RequestError
from ..observe.logs import questions_answered
from ..observe.metrics import Metrics
from ..observe.tracing import Spent, Tracing
from ..security.rate_limit import current_limit
from ..settings import ServerSettings
from .answers import AnswerCache
from .contexts import ContextCache
from .merging import Answered, Computed, Mergeable, Merging, Prepared
from .options import QuestionOptions
from .promising import most_promising
from .slices import in_slices
from .waiting import Waiting

# A call whose texts to tokenize are shorter than this, in code points, is prepared on the event
# loop: that takes less than the way to another thread and back.
SHORT = 1_000
# Where texts are longer than this all together, even to look for them in the cache takes a while.
LONG = 100_000
# Threads that tokenize, at most.
MAX_THREADS = 8


class Answerer:
    """Make one inside a running event loop, and `close` it there."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        backend: Backend,
        manifest: Manifest,
        settings: ServerSettings,
        metrics: Metrics,
        tracing: Tracing | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._contexts = ContextCache(tokenizer, settings.context_cache_bytes, metrics)
        self._answers = AnswerCache(settings.answer_cache_bytes, metrics)
        self._backend = backend
        self._manifest = manifest
        self._settings = settings
        self._metrics = metrics
        self._tracing = tracing
        # More would only make the event loop wait for each of them in turn.
        threads = min(MAX_THREADS, usable_cpus())
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="tokenizer")

    async def answer(
        self, question: str, context: str, options: QuestionOptions, deadline: float | None
    ) -> Answered:
        """Answer one question. Raises a RequestError.

        deadline: by the event loop's clock, in seconds.
        """
        (answered,) = await self.answer_batch([context], [(question, 0)], options, deadline)
        if isinstance(answered, RequestError):
            raise answered
        return answered

    async def answer_batch(
        self,
        contexts: Sequence[str],
        questions: Sequence[tuple[str, int]],
        options: QuestionOptions,
        deadline: float | None,
    ) -> list[Answered | RequestError]:
        """Answer many questions, each a text and the index of its context, in their order.

        A question that can't be answered has its error in the list. Raises OverloadedError for all
        of them together.
        """
        try:
            answered = await self._answer_batch(contexts, questions, options, deadline)
        except RequestError as error:
            self._metrics.question_ended(error.code.name, len(questions))
            raise
        for one in answered:
            self._count(one)
        questions_answered(
            questions,
            contexts,
            ((a.windows, a.queue_s, a.engine_s) for a in answered if isinstance(a, Answered)),
        )
        return answered

    async def _answer_batch(
        self,
        contexts: Sequence[str],
        questions: Sequence[tuple[str, int]],
        options: QuestionOptions,
        deadline: float | None,
    ) -> list[Answered | RequestError]:
        waiting = Waiting(deadline)
        with waiting.waited_for():
            began = time.monotonic()
            known = await self._known(contexts, questions, options)
            if len(known) < len(questions):  # else the engine has nothing to do
                self._backend.check_room()
            # A rate is of what a caller asks, whatever it costs.
            self._check_rate(len(questions))
            if len(known) == len(questions) or self._is_short(contexts, questions):
                prepared = self._prepare(contexts, questions, known, options, waiting)
            else:
                prepared = await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._prepare, contexts, questions, known, options, waiting
                )
            submitted = time.monotonic()
            longest = self._manifest.max_answer_length_limit
            answer_length = min(options.decode.max_answer_length, longest)
            on_host = needs_host(options.decode, self._manifest.n_best_size, longest)
            with_logits = on_host or options.decode.apart
            requests = [
                WindowRequest(p.windows, answer_length, with_logits)
                for p in prepared
                if isinstance(p, Prepared)
            ]
            outcomes = await self._backend.submit(requests, deadline) if requests else []
            finished = time.monotonic()
            following = iter(outcomes)
            mergeable: list[Mergeable] = [
                Computed(p, next(following)) if isinstance(p, Prepared) else p for p in prepared
            ]
            merging = self._merging(options, len(questions), waiting, on_host=on_host)
            slices = await in_slices(merging.merge, mergeable, merging.cost, waiting)
            if self._tracing is not None:
                self._tracing.answered(_spent(outcomes, began, submitted, finished))
            return [one for part in slices for one in part]

    def _merging(
        self, options: QuestionOptions, questions: int, waiting: Waiting, *, on_host: bool
    ) -> Merging:
        return Merging(
            options.decode,
            self._manifest.n_best_size,
            on_host=on_host,
            max_bytes=self._settings.max_response_bytes,
            questions=questions,
            check=waiting.check,
            keep=lambda prepared, answered: self._answers.keep(
                prepared.question, prepared.context.text, options, answered
            ),
        )

    async def _known(
        self,
        contexts: Sequence[str],
        questions: Sequence[tuple[str, int]],
        options: QuestionOptions,
    ) -> dict[int, Answered]:
        """The answers that were kept, by the place of their question."""
        if not self._answers.is_on:
            return {}
        if sum(map(len, contexts)) <= LONG:
            return self._find(contexts, questions, options)
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._find, contexts, questions, options
        )

    def _find(
        self,
        contexts: Sequence[str],
        questions: Sequence[tuple[str, int]],
        options: QuestionOptions,
    ) -> dict[int, Answered]:
        known = {}
        for place, (question, index) in enumerate(questions):
            if index < len(contexts):
                found = self._answers.find(question, contexts[index], options)
                if found is not None:
                    known[place] = found
        return known

    def _check_rate(self, questions: int) -> None:
        limit = current_limit.get()
        if limit is None:
            return
        try:
            limit.take(questions)
        except RateLimitError:
            self._metrics.rejections.labels("rate").inc()
            raise

    def _is_short(self, contexts: Sequence[str], questions: Sequence[tuple[str, int]]) -> bool:
        if sum(map(len, contexts)) > LONG:
            return False
        room = SHORT - sum(len(question) for question, _ in questions)
        for context in contexts:
            if room < 0:
                return False
            if context not in self._contexts:
                room -= len(context)
        return room >= 0

    def _count(self, answered: Answered | RequestError) -> None:
        if isinstance(answered, RequestError):
            self._metrics.question_ended(answered.code.name)
            return
        self._metrics.question_ended("OK")
        if answered.prediction.is_impossible:
            self._metrics.null_answers.inc()

    def _prepare(
        self,
        contexts: Sequence[str],
        questions: Sequence[tuple[str, int]],
        known: Mapping[int, Answered],
        options: QuestionOptions,
        waiting: Waiting,
    ) -> list[Prepared | Answered | RequestError]:
        """known: answers by the place of their question. They count for the limits of a call: what
        a call may ask does not depend on who asked before."""
        ids: dict[str, npt.NDArray[np.int32]] = {}
        tokenized: dict[int, TokenizedContext | RequestError] = {}
        prepared: list[Prepared | Answered | RequestError] = []
        room = self._settings.max_windows
        for place, (question, index) in enumerate(questions):
            waiting.check()
            try:
                if place in known:
                    self._check_windows(known[place].windows, room)
                    room -= known[place].windows
                    prepared.append(known[place])
                    continue
                if index >= len(contexts):
                    raise InvalidRequestError(
                        f"context_index must be under {len(contexts)}, the number of contexts, "
                        f"got {index}"
                    )
                if not room:  # every question has a window at the least
                    raise self._too_many_windows(alone=1)
                if question not in ids:
                    ids[question] = self._question(question)
                if index not in tokenized:
                    tokenized[index] = self._context(contexts[index])
                context = tokenized[index]
                if isinstance(context, RequestError):
                    raise context
                windows = self._windows(ids[question], context, options, room)
                room -= len(windows)
                prepared.append(Prepared(question, context, windows))
            except RequestError as error:
                prepared.append(error)
        return prepared

    def check_question(self, question: str) -> None:
        """Raises InvalidRequestError."""
        self._question(question)

    async def most_promising(
        self, question: str, texts: Sequence[str], count: int, deadline: float | None
    ) -> list[int]:
        """The places of the `count` texts that are most likely to hold the answer, in order: by
        BM25, in the model's own tokens. Raises a RequestError."""
        waiting = Waiting(deadline)
        with waiting.waited_for():
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._most_promising, question, texts, count, waiting
            )

    def _most_promising(
        self, question: str, texts: Sequence[str], count: int, waiting: Waiting
    ) -> list[int]:
        tokens = []
        for text in texts:
            waiting.check()
            tokens.append(self._contexts.tokenize(text).ids)
        return most_promising(self._question(question), tokens, count)

    def _question(self, question: str) -> npt.NDArray[np.int32]:
        _check_text("question", question, self._settings.max_question_length)
        ids = self._tokenizer.question(question)
        if not len(ids):
            raise InvalidRequestError("question has no tokens: it holds nothing to read")
        return ids

    def _context(self, context: str) -> TokenizedContext | RequestError:
        try:
            _check_text("context", context, self._settings.max_context_length)
        except InvalidRequestError as error:
            return error
        tokenized = self._contexts.tokenize(context)
        if not len(tokenized.ids):
            return InvalidRequestError("context has no tokens: it holds nothing to read")
        return tokenized

    def _windows(
        self,
        question_ids: npt.NDArray[np.int32],
        context: TokenizedContext,
        options: QuestionOptions,
        room: int,
    ) -> list[Window]:
        settings = options.window_settings(len(question_ids))
        count = count_windows(
            len(context.ids), settings.capacity(len(question_ids)), settings.doc_stride
        )
        self._check_windows(count, room)
        return make_windows(
            question_ids,
            context.ids,
            settings=settings,
            cls_id=self._tokenizer.cls_id,
            sep_id=self._tokenizer.sep_id,
            max_context=options.decode.rules.max_context,
        )

    def _check_windows(self, count: int, room: int) -> None:
        """Raises InvalidRequestError."""
        if count > room:
            raise self._too_many_windows(count)

    def _too_many_windows(self, alone: int) -> InvalidRequestError:
        """alone: the windows of the question itself."""
        limit = self._settings.max_windows
        if alone > limit:
            return InvalidRequestError(
                f"the question is cut into {alone} windows, and this server takes {limit} a call "
                "(max_windows): ask about a part of the context, or with a larger doc_stride"
            )
        return InvalidRequestError(
            f"the call is cut into more than {limit} windows (max_windows): ask fewer questions at "
            "a time, or about shorter contexts",
            in_a_smaller_call=True,
        )

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._contexts.clear()
        self._answers.clear()


def _spent(outcomes: Sequence[Outcome], began: float, submitted: float, finished: float) -> Spent:
    """began: tokenizing. submitted, finished: the windows. By `time.monotonic`, in seconds."""
    done = [one for one in outcomes if not isinstance(one, RequestError)]
    return Spent(
        questions=len(outcomes),
        windows=sum(len(one.decoded) for one in done),
        batches=max((one.batches for one in done), default=0),
        began=began,
        submitted=submitted,
        taken=min((submitted + one.queue_s for one in done), default=finished),
        finished=finished,
    )


def _check_text(field: str, text: str, limit: int) -> None:
    if not text.strip():
        raise InvalidRequestError(f"{field} is {'blank' if text else 'empty'}")
    if len(text) > limit:
        raise InvalidRequestError(
            f"{field} must be at most {limit} characters (max_{field}_length), got {len(text)}"
        )
