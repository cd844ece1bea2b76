"""All questions of a run: what a journal already answers is not asked, and every answer is on disk when it is there.

The journal's key is the question (model, parameters, rubric, text) and the attempt at it, so a killed run, a larger
sample or one more dimension pays for what is new alone; what a kill can lose is the requests under way. An answer that
is no number on the scale is paid for as well: it is asked again, then counted as missing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any

from quadmix.config_labels import LabelsConfig, PriceConfig
from quadmix.errors import ConfigError
from quadmix.labels.endpoint import Completion, Endpoint, Refused
from quadmix.labels.questions import Question, score_in
from quadmix.progress import Progress
from quadmix.search.journal import Journal

REFUSED_IN_A_ROW = 20  # and not one taken in between: something is wrong with all of them
_AHEAD = 2  # questions handed to the threads, times their number


@dataclass(frozen=True)
class Answer:
    """What the attempts at one question gave. score: None where none was a number. Tokens of all attempts."""

    score: float | None
    attempts: int
    input_tokens: int
    output_tokens: int

    @classmethod
    def kept(cls, journal: Journal, question: Question) -> Answer:
        """As far as the journal knows."""
        found: list[dict[str, Any]] = []
        while (entry := journal.entries.get(_key(question, len(found)))) is not None:
            found.append(entry)
        score = next((entry["score"] for entry in found if entry["score"] is not None), None)
        read, written = (sum(entry[name] for entry in found) for name in ("input_tokens", "output_tokens"))
        return cls(score, len(found), read, written)

    def settled(self, attempts: int) -> bool:
        """Whether nothing is left to be asked."""
        return self.score is not None or self.attempts >= attempts


def cost_of(price: PriceConfig, input_tokens: float, output_tokens: float) -> float:
    """In the money that the price is in."""
    return (price.input * input_tokens + price.output * output_tokens) / 1e6


def spent_on(price: PriceConfig, answers: Sequence[Answer]) -> float:
    return sum(cost_of(price, answer.input_tokens, answer.output_tokens) for answer in answers)


@dataclass(frozen=True)
class Outcome:
    """answers: by the question's identity. refused: those that the server would not take, and why; the next run asks
    them again. asked: questions that this run had to ask. cost: of all answers, earlier runs' included."""

    answers: dict[str, Answer]
    refused: dict[str, str]
    asked: int
    cost: float


class _Asker:
    """What the threads share."""

    def __init__(self, config: LabelsConfig, endpoint: Endpoint, journal: Journal, spent: float) -> None:
        self.config = config
        self.endpoint = endpoint
        self.journal = journal
        self.spent = spent
        self.refused_in_a_row = 0
        self.answered = bool(journal.entries)  # a server that has answered refuses texts, not requests
        self.lock = threading.Lock()

    def ask(self, question: Question, tokens: int) -> str | None:
        """Bring one question to its end; what the server said if it would not take it. tokens: of the question, for
        servers that do not count."""
        answer = Answer.kept(self.journal, question)
        while not answer.settled(self.config.attempts):
            try:
                found = self.endpoint.ask(question.messages(answer.attempts))
            except Refused as refused:
                self._note_refusal(str(refused))
                return str(refused)
            self._keep(question, answer.attempts, found, tokens)
            answer = Answer.kept(self.journal, question)
        return None

    def _keep(self, question: Question, attempt: int, found: Completion, tokens: int) -> None:
        read, written = _counted(found, tokens)
        entry = {
            "score": score_in(found.content, question.rubric.scale),
            "input_tokens": read,
            "output_tokens": written,
        }
        with self.lock:
            self.journal.append(_key(question, attempt), entry)
            self.spent += cost_of(self.config.price, read, written)
            self.refused_in_a_row = 0
            self.answered = True

    def _note_refusal(self, text: str) -> None:
        with self.lock:
            self.refused_in_a_row += 1
            if self.refused_in_a_row >= REFUSED_IN_A_ROW and not self.answered:
                raise ConfigError(
                    f"labels.endpoint: the server refused {REFUSED_IN_A_ROW} requests in a row, at last: {text}; check "
                    "labels.endpoint.parameters and what the model takes (some want "
                    "`{max_tokens: null, max_completion_tokens: N}`, some no temperature)"
                )


def ask_all(
    config: LabelsConfig,
    endpoint: Endpoint,
    journal: Journal,
    questions: Sequence[tuple[Question, int]],
    progress: Progress,
) -> Outcome:
    """questions: with their tokens. Raises ConfigError when the key or all requests are refused or `max_cost` is spent,
    ResourceError when the endpoint stays away; what was answered until then is in the journal."""
    different = {question.identity: (question, tokens) for question, tokens in questions}
    before = {identity: Answer.kept(journal, question) for identity, (question, _) in different.items()}
    pending = [different[identity] for identity, answer in before.items() if not answer.settled(config.attempts)]
    asker = _Asker(config, endpoint, journal, spent_on(config.price, list(before.values())))
    refused = _run(asker, pending, progress) if pending else {}
    answers = {identity: Answer.kept(journal, question) for identity, (question, _) in different.items()}
    return Outcome(answers, refused, len(pending), asker.spent)


def _run(asker: _Asker, pending: Sequence[tuple[Question, int]], progress: Progress) -> dict[str, str]:
    """Ask; what was refused, by identity."""
    refused: dict[str, str] = {}
    threads = ThreadPoolExecutor(asker.config.endpoint.concurrency, thread_name_prefix="labels")
    waiting: dict[Future[str | None], str] = {}
    rest = iter(pending)
    try:
        with progress.track("labels", len(pending)) as track:
            while True:
                for question, tokens in islice(rest, _AHEAD * asker.config.endpoint.concurrency - len(waiting)):
                    waiting[threads.submit(asker.ask, question, tokens)] = question.identity
                if not waiting:
                    return refused
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    identity, said = waiting.pop(future), future.result()
                    if said is not None:
                        refused[identity] = said
                    track.advance()
                if asker.spent > asker.config.max_cost and track.done < len(pending):
                    raise ConfigError(
                        f"labels.max_cost: {asker.spent:,.4g} of {asker.config.max_cost:,.4g} are spent, with "
                        f"{len(pending) - track.done:,} questions to go: more tokens or attempts than estimated. "
                        "Raise it to go on; what was answered is kept"
                    )
    finally:
        # requests under way may end, and their answers are kept; nothing new is sent
        asker.endpoint.stop.set()
        threads.shutdown(wait=True, cancel_futures=True)


def _counted(found: Completion, tokens: int) -> tuple[int, int]:
    """Tokens read and written; our own count, and four characters a token, where the server gives none."""
    written = -(-len(found.content or "") // 4)
    return (
        tokens if found.input_tokens is None else found.input_tokens,
        written if found.output_tokens is None else found.output_tokens,
    )


def _key(question: Question, attempt: int) -> str:
    return f"{question.identity}/{attempt}"
